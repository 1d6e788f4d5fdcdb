//! Making a distribution of an image, all or nothing, and deleting it.

use super::*;

#[tokio::test]
async fn half_an_import_is_removed_and_repeated() {
    for behaviour in ["import-fails", "import-lies"] {
        let fake = Fake::new(behaviour);
        let error = fake.driver.prepare_disk().await.unwrap_err().to_string();
        let wanted = match behaviour {
            "import-fails" => "kein Platz.",
            _ => "it says that it has imported lima-vm, which is not so",
        };
        assert!(error.contains(wanted), "{error}");
        assert_eq!(fake.state(), "", "{behaviour}");
        assert!(!fake.vhdx().exists());
        assert!(fake.instance.dir.image().exists(), "for the next attempt");
        fake.behave("obeys");
        fake.driver.prepare_disk().await.unwrap();
        assert_eq!(fake.state(), "Stopped");
    }
}

#[tokio::test]
async fn an_import_that_was_cut_off_is_begun_anew() {
    let fake = Fake::new("import-hangs");
    tokio::select! {
        done = fake.driver.prepare_disk() => panic!("{done:?}"),
        () = async { while fake.state() != "Installing" { tokio::time::sleep(Duration::from_millis(10)).await } } => {}
    }
    fake.behave("obeys");
    assert_eq!(
        fake.driver.holds_system().await.unwrap(),
        Some(true),
        "its image"
    );
    fake.driver.prepare_disk().await.unwrap();
    assert_eq!(fake.state(), "Stopped");
    assert!(fake.orders().contains(&"--unregister lima-vm".to_owned()));

    let fake = Fake::new("import-hangs");
    tokio::select! {
        done = fake.driver.prepare_disk() => panic!("{done:?}"),
        () = async { while fake.state() != "Installing" { tokio::time::sleep(Duration::from_millis(10)).await } } => {}
    }
    fake.behave("obeys");
    forget(&fake.instance.dir, &fake.env).await.unwrap();
    assert_eq!(fake.state(), "", "and deleted likewise");
}

#[tokio::test]
async fn a_distribution_of_somebody_else_is_left_alone() {
    let fake = Fake::imported("obeys").await;
    fs::remove_file(fake.vhdx()).unwrap();
    let error = fake.driver.prepare_disk().await.unwrap_err().to_string();
    assert!(error.contains("belongs to another LIMA_HOME"), "{error}");
    forget(&fake.instance.dir, &fake.env).await.unwrap();
    assert_eq!(fake.state(), "Stopped", "still registered");
}

/// Between an import that was cut off and the next attempt, another LIMA_HOME may take the name.
#[tokio::test]
async fn nor_is_one_removed_for_the_half_that_is_left_here() {
    let fake = Fake::imported("obeys").await;
    fs::remove_file(fake.vhdx()).unwrap();
    fs::write(fake.instance.dir.path().join("wsl2.import"), "").unwrap();
    let error = fake.driver.prepare_disk().await.unwrap_err().to_string();
    assert!(error.contains("belongs to another LIMA_HOME"), "{error}");
    forget(&fake.instance.dir, &fake.env).await.unwrap();
    assert_eq!(fake.state(), "Stopped", "still registered");
    let removed = |order: &String| order.starts_with("--unregister");
    assert!(!fake.orders().iter().any(removed));
}

#[tokio::test]
async fn a_disk_without_registration_is_not_overwritten() {
    let fake = Fake::new("obeys");
    fs::write(fake.vhdx(), "precious").unwrap();
    let error = fake.driver.prepare_disk().await.unwrap_err().to_string();
    assert!(error.contains("wsl --import-in-place lima-vm"), "{error}");
    assert_eq!(fs::read_to_string(fake.vhdx()).unwrap(), "precious");
}

#[tokio::test]
async fn what_is_no_archive_is_refused_before_it_is_imported() {
    for (head, what) in [
        (&b""[..], "is empty"),
        (b"QFI\xfb\0\0\0\x03", "is a qcow2 disk"),
        (b"hsqs", "is a SquashFS file system"),
    ] {
        let fake = Fake::new("obeys");
        fs::write(fake.instance.dir.image(), head).unwrap();
        let error = fake.driver.prepare_disk().await.unwrap_err().to_string();
        assert!(
            error.starts_with("images[].location: ") && error.contains(what),
            "{error}"
        );
        assert_eq!(fake.orders(), [""; 0]);
    }
}

#[tokio::test]
async fn deleting_insists_and_does_not_believe() {
    let fake = Fake::imported("asks").await;
    forget(&fake.instance.dir, &fake.env).await.unwrap();
    assert_eq!(fake.state(), "");
    assert!(
        fake.orders()
            .contains(&"--unregister lima-vm --force".to_owned())
    );

    let fake = Fake::imported("unregister-lies").await;
    let error = forget(&fake.instance.dir, &fake.env)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("--unregister"), "{error}");
    assert!(fake.vhdx().exists());
}
