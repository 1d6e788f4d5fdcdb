//! VMs whose agent was killed.

use super::*;

/// Starts the fake as an agent that was killed leaves it: nobody's child that we know of, its identity on record.
async fn orphan(fake: &Fake) -> ProcessIdentity {
    let plan = fake.driver.plan().await.unwrap();
    let started = Command::new("sh")
        .args(["-c", "\"$@\" >&2 </dev/null & echo $!", "sh"])
        .arg(&plan.program.path)
        .args(argv(&plan))
        .stderr(std::process::Stdio::null())
        .output()
        .unwrap();
    let pid = String::from_utf8(started.stdout).unwrap();
    let identity = ProcessIdentity::of(pid.trim().parse().unwrap()).unwrap();
    let dir = &fake.instance.dir;
    while !(dir.qmp_sock().exists() && dir.qmp_berth_sock().exists()) {
        assert!(identity.is_alive());
        tokio::task::yield_now().await;
    }
    identity
}

#[tokio::test]
async fn orphans_are_stopped_by_their_recorded_identity() {
    for (behaviour, commands) in [
        ("obeys", vec!["qmp_capabilities", "system_powerdown"]),
        (
            "ignores-powerdown",
            vec!["qmp_capabilities", "system_powerdown", "quit"],
        ),
        ("garbage-greeting", vec![]),
    ] {
        let fake = Fake::new(behaviour);
        let identity = orphan(&fake).await;
        let (steps, _calm) = ladder(Duration::from_secs(1), Duration::from_secs(60));
        stop_orphan(&fake.instance.dir, &identity, &steps)
            .await
            .unwrap();
        assert_eq!(fake.logged("command"), commands, "{behaviour}");
        fake.assert_gone();
        // Once more, now that it is gone.
        stop_orphan(&fake.instance.dir, &identity, &steps)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn an_orphan_is_named_and_left_alone_by_a_start() {
    let fake = Fake::new("obeys");
    let identity = orphan(&fake).await;
    let error = fake.driver.start().await.unwrap_err().to_string();
    let pid = identity.pid;
    assert!(
        error.contains(&format!("runs already (pid {pid})")),
        "{error}"
    );
    fake.driver.stop(patient()).await.unwrap();
    assert!(identity.is_alive());
    assert!(fake.instance.dir.vm_pid("qemu").exists());
    stop_orphan(&fake.instance.dir, &identity, &patient())
        .await
        .unwrap();
    assert_eq!(fake.logged("command").last().unwrap(), "system_powerdown");
    fake.assert_gone();
}

#[tokio::test]
async fn a_recycled_pid_is_left_alone() {
    let fake = Fake::new("obeys");
    let identity = orphan(&fake).await;
    let earlier = ProcessIdentity {
        start_time: identity.start_time - 1,
        ..identity.clone()
    };
    stop_orphan(&fake.instance.dir, &earlier, &patient())
        .await
        .unwrap();
    assert!(identity.is_alive());
    stop_orphan(
        &fake.instance.dir,
        &identity,
        &ladder(Duration::ZERO, Duration::from_secs(60)).0,
    )
    .await
    .unwrap();
    assert!(!identity.is_alive());
}
