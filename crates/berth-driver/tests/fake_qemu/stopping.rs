//! How a VM ends: asked, ordered, killed, by itself, or forgotten.

use super::*;

#[tokio::test]
async fn a_guest_that_ignores_the_power_button_is_quit() {
    let fake = Fake::new("ignores-powerdown");
    let mut vm = fake.driver.start().await.unwrap();
    let (steps, _calm) = ladder(Duration::from_millis(50), Duration::from_secs(60));
    fake.driver.stop(steps).await.unwrap();
    assert_eq!(fake.logged("command")[1..], ["system_powerdown", "quit"]);
    let exit = exit_of(&mut vm).await;
    assert_eq!(exit.failure, None);
    fake.assert_gone();
}

#[tokio::test]
async fn a_guest_that_takes_its_time_gets_it() {
    let fake = Fake::new("late");
    fake.driver.start().await.unwrap();
    fake.driver.stop(patient()).await.unwrap();
    assert_eq!(fake.logged("command")[1..], ["system_powerdown"]);
    fake.assert_gone();
}

#[tokio::test]
async fn a_qemu_that_obeys_nothing_is_killed() {
    let fake = Fake::new("stubborn");
    let mut vm = fake.driver.start().await.unwrap();
    let (steps, _calm) = ladder(Duration::from_millis(50), Duration::from_millis(50));
    fake.driver.stop(steps).await.unwrap();
    let exit = exit_of(&mut vm).await;
    assert_eq!(
        exit.failure.as_deref(),
        Some("killed by signal 9 (SIGKILL)")
    );
    fake.assert_gone();
}

#[tokio::test]
async fn those_in_a_hurry_need_not_wait() {
    let fake = Fake::new("ignores-powerdown");
    let mut vm = fake.driver.start().await.unwrap();
    let (steps, hurry) = ladder(Duration::from_secs(3600), Duration::from_secs(3600));
    let (stopped, ()) = tokio::join!(fake.driver.stop(steps), async { hurry.send(true).unwrap() });
    stopped.unwrap();
    let exit = exit_of(&mut vm).await;
    assert_eq!(
        exit.failure.as_deref(),
        Some("killed by signal 9 (SIGKILL)")
    );
    fake.assert_gone();
}

#[tokio::test]
async fn a_vm_that_dies_by_itself_says_why() {
    let fake = Fake::new("dies-later");
    let mut vm = fake.driver.start().await.unwrap();
    let exit = exit_of(&mut vm).await;
    let failure = exit.failure.unwrap();
    assert!(
        failure.starts_with("killed by signal 6 (SIGABRT)"),
        "{failure}"
    );
    assert!(
        exit.stderr_tail.ends_with("qemu: internal error"),
        "{}",
        exit.stderr_tail
    );
    fake.driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_start_that_is_cancelled_leaves_nothing_after_stop() {
    let fake = Fake::new("no-greeting");
    fake.driver.plan().await.unwrap();
    {
        let start = fake.driver.start();
        tokio::pin!(start);
        // Until the process is there, and then no further.
        while fake.logged("run").is_empty() {
            let turn = tokio::time::timeout(Duration::from_millis(20), &mut start).await;
            assert!(turn.is_err(), "it cannot have started");
        }
        assert!(fake.lives());
    }
    fake.driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_driver_that_is_forgotten_takes_its_vm_along() {
    let mut fake = Fake::new("obeys");
    let mut vm = fake.driver.start().await.unwrap();
    fake.driver = fake.instance.driver(&json!({}));
    let exit = exit_of(&mut vm).await;
    assert_eq!(
        exit.failure.as_deref(),
        Some("killed by signal 9 (SIGKILL)")
    );
}
