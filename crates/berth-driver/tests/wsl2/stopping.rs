//! Every way in which a distribution ends.

use super::*;

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_seen() {
    let fake = Fake::imported("obeys").await;
    let mut vm = fake.driver.start().await.unwrap();
    fake.person(&["--terminate", DISTRIBUTION]);
    let failure = exit_of(&mut vm).await.failure.unwrap();
    assert_eq!(failure, "exit status 1");
    fake.driver.stop(patient()).await.unwrap();
    fake.assert_stopped();

    let mut vm = fake.driver.start().await.unwrap();
    let pid = vm.identity.pid.to_string();
    assert!(
        Command::new("kill")
            .args(["-KILL", &pid])
            .status()
            .unwrap()
            .success()
    );
    let failure = exit_of(&mut vm).await.failure.unwrap();
    assert!(failure.starts_with("killed by signal 9"), "{failure}");
    assert_eq!(
        fake.state(),
        "Running",
        "killing wsl.exe ends no distribution"
    );
    fake.driver.stop(patient()).await.unwrap();
    fake.assert_stopped();
}

#[tokio::test]
async fn the_ladder_is_climbed_down() {
    for (behaviour, killed) in [("deaf", false), ("stuck", true)] {
        let fake = Fake::imported(behaviour).await;
        let mut vm = fake.driver.start().await.unwrap();
        let short = Duration::from_secs(1);
        fake.driver.stop(ladder(short, short).0).await.unwrap();
        let orders = fake.orders();
        assert!(orders[orders.len() - 2].ends_with("systemctl --no-block poweroff"));
        assert_eq!(orders[orders.len() - 1], "--terminate lima-vm");
        let failure = exit_of(&mut vm).await.failure.unwrap();
        assert_eq!(
            failure.starts_with("killed by signal 9"),
            killed,
            "{behaviour}: {failure}"
        );
        fake.assert_stopped();
    }
}

#[tokio::test]
async fn a_distribution_that_runs_on_is_no_success() {
    let fake = Fake::imported("stubborn").await;
    let mut vm = fake.driver.start().await.unwrap();
    let short = Duration::from_millis(500);
    let error = fake
        .driver
        .stop(ladder(short, short).0)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("runs on") && error.contains("wsl --shutdown"),
        "{error}"
    );
    exit_of(&mut vm).await;
    assert!(
        fake.pid_file().exists(),
        "its files are not removed under it"
    );
    fake.behave("obeys");
    fake.driver.stop(patient()).await.unwrap();
    fake.assert_stopped();
}

#[tokio::test]
async fn a_second_signal_goes_to_the_bottom_at_once() {
    let fake = Fake::imported("deaf").await;
    fake.driver.start().await.unwrap();
    let (steps, hurry) = ladder(HANG * 10, HANG * 10);
    let stop = fake.driver.stop(steps);
    let hurrying = async {
        fake.asked_for("poweroff").await;
        hurry.send_replace(true);
    };
    let stopping = async { tokio::join!(stop, hurrying) };
    let (stopped, ()) = tokio::time::timeout(HANG, stopping).await.unwrap();
    stopped.unwrap();
    fake.assert_stopped();
}

#[tokio::test]
async fn an_orphan_is_ended_by_whoever_finds_it() {
    let fake = Fake::imported("obeys").await;
    let (dir, env) = (&fake.instance.dir, &fake.env);
    let mut vm = fake.driver.start().await.unwrap();
    let other = Wsl2Driver::new(context(&fake.instance, &json!({})));
    let error = other.start().await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("runs already (pid {})", vm.identity.pid)),
        "{error}"
    );
    other.stop(patient()).await.unwrap();
    assert!(vm.identity.is_alive(), "its files are not the other's");
    stop_orphan("wsl2", dir, &vm.identity, &patient(), env)
        .await
        .unwrap();
    exit_of(&mut vm).await;
    fake.assert_stopped();
    stop_orphan("wsl2", dir, &vm.identity, &patient(), env)
        .await
        .unwrap();

    let mut vm = fake.driver.start().await.unwrap();
    let pid = vm.identity.pid.to_string();
    assert!(
        Command::new("kill")
            .args(["-KILL", &pid])
            .status()
            .unwrap()
            .success()
    );
    exit_of(&mut vm).await;
    end_killed(dir, env).await.unwrap();
    fake.assert_stopped();
}

#[tokio::test]
async fn a_start_that_is_dropped_leaves_nothing_after_a_stop() {
    let fake = Fake::imported("boot-hangs").await;
    tokio::select! {
        started = fake.driver.start() => panic!("{started:?}"),
        () = fake.asked_for("--exec true") => {}
    }
    fake.driver
        .stop(ladder(Duration::ZERO, HANG).0)
        .await
        .unwrap();
    fake.assert_stopped();
}
