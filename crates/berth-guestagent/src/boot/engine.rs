//! Runs the boot steps: each as soon as the steps before it have ended, as many at the same time as the order allows.
//!
//! All on one thread: steps wait for programs and for files, and the little they compute themselves is not worth a thread.

use std::collections::{BTreeMap, BTreeSet};

use berth_link::event::{StepOutcome, StepReport};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::args::chain;
use crate::boot::step::{Done, Site, Step, Work};
use crate::clock::uptime;
use crate::progress::Progress;

/// A set of steps that cannot be put in an order.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    /// Two steps with one name.
    #[error("there are two boot steps named {0}")]
    Twice(String),
    /// A step that comes after one that is not there.
    #[error("boot step {step} comes after {missing}, which is not there")]
    Unknown {
        /// Which one.
        step: String,
        /// What it comes after.
        missing: String,
    },
    /// Steps that wait for each other.
    #[error("boot steps wait for each other: {}", .0.join(", "))]
    Circle(Vec<String>),
}

/// Runs all steps that apply and have not ended in this boot yet. A step that fails stops no other.
pub(crate) async fn run(
    steps: Vec<Step>,
    site: &Site<'_>,
    progress: &Progress,
) -> Result<(), PlanError> {
    check(&steps)?;
    let mut waiting: Vec<&Step> = steps.iter().collect();
    let mut ended: BTreeSet<&str> = BTreeSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        while let Some(at) = waiting.iter().position(|step| may_run(step, &ended)) {
            let step = waiting.remove(at);
            if progress.has_ended(&step.name) || !(step.applies)(site.spec, site.guest) {
                // Its place in the order stays: what comes after it still waits for what comes before it.
                ended.insert(&step.name);
            } else {
                running.push(run_step(step, site));
            }
        }
        let Some((step, report)) = running.next().await else {
            return Ok(());
        };
        progress.report(report);
        ended.insert(&step.name);
    }
}

fn may_run(step: &Step, ended: &BTreeSet<&str>) -> bool {
    step.after
        .iter()
        .all(|before| ended.contains(before.as_str()))
}

async fn run_step<'s>(step: &'s Step, site: &Site<'_>) -> (&'s Step, StepReport) {
    let work = Work::new(site, &step.name);
    let started = uptime();
    let result = (step.run)(&work).await;
    let (outcome, exit_code, tail) = match result {
        Ok(Done::Changed) => (StepOutcome::Ok, None, work.log.tail("")),
        Ok(Done::Already) => (StepOutcome::Skipped, None, String::new()),
        Err(why) => (
            StepOutcome::Failed,
            why.exit_code(),
            work.log.tail(&chain(&why)),
        ),
    };
    let report = StepReport {
        name: step.name.clone(),
        outcome,
        exit_code,
        tail,
        started,
        ended: uptime(),
    };
    (step, report)
}

/// Finds out whether every step's turn can come.
pub(crate) fn check(steps: &[Step]) -> Result<(), PlanError> {
    let mut after: BTreeMap<&str, &[String]> = BTreeMap::new();
    for step in steps {
        if after.insert(&step.name, &step.after).is_some() {
            return Err(PlanError::Twice(step.name.clone()));
        }
    }
    for step in steps {
        if let Some(missing) = step
            .after
            .iter()
            .find(|name| !after.contains_key(name.as_str()))
        {
            return Err(PlanError::Unknown {
                step: step.name.clone(),
                missing: missing.clone(),
            });
        }
    }
    loop {
        let waiting = after.len();
        let free: Vec<&str> = after
            .iter()
            .filter(|(_, before)| before.iter().all(|name| !after.contains_key(name.as_str())))
            .map(|(name, _)| *name)
            .collect();
        for name in free {
            after.remove(name);
        }
        if after.is_empty() {
            return Ok(());
        }
        if after.len() == waiting {
            return Err(PlanError::Circle(
                after.keys().map(|name| (*name).to_owned()).collect(),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::sync::Barrier;

    use super::*;
    use crate::boot::step::{Ending, impossible};
    use crate::boot::testing::Scene;

    type Diary = Rc<RefCell<Vec<String>>>;

    fn step(
        name: &str,
        after: &[&str],
        run: impl for<'a> Fn(&'a Work<'a>) -> Ending<'a> + 'static,
    ) -> Step {
        Step {
            name: name.to_owned(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            applies: |_, _| true,
            run: Box::new(run),
        }
    }

    fn noted(diary: &Diary, name: &'static str, after: &[&str]) -> Step {
        let diary = Rc::clone(diary);
        step(name, after, move |_| {
            let diary = Rc::clone(&diary);
            Box::pin(async move {
                diary.borrow_mut().push(name.to_owned());
                Ok(Done::Changed)
            })
        })
    }

    #[tokio::test(flavor = "current_thread")]
    async fn steps_run_in_their_order_whatever_the_order_of_the_list() {
        let scene = Scene::new();
        let diary = Diary::default();
        let list = vec![
            noted(&diary, "d", &["b", "c"]),
            noted(&diary, "c", &["a"]),
            noted(&diary, "b", &["a"]),
            noted(&diary, "a", &[]),
        ];
        run(list, &scene.site(), &scene.progress()).await.unwrap();
        let diary = diary.borrow();
        assert_eq!(diary[0], "a");
        assert_eq!(diary[3], "d");
        assert_eq!(diary.len(), 4);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn steps_without_an_order_run_at_the_same_time() {
        let scene = Scene::new();
        let both = Rc::new(Barrier::new(2));
        let meet = |name: &str| {
            let both = Rc::clone(&both);
            step(name, &[], move |_| {
                let both = Rc::clone(&both);
                Box::pin(async move {
                    both.wait().await;
                    Ok(Done::Changed)
                })
            })
        };
        // One after the other would never end.
        run(vec![meet("a"), meet("b")], &scene.site(), &scene.progress())
            .await
            .unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_failure_is_reported_and_stops_nothing() {
        let scene = Scene::new();
        let diary = Diary::default();
        let failing = step("bad", &[], |_| {
            Box::pin(async { Err(impossible("it cannot be done")) })
        });
        let progress = scene.progress();
        run(
            vec![failing, noted(&diary, "next", &["bad"])],
            &scene.site(),
            &progress,
        )
        .await
        .unwrap();
        assert_eq!(*diary.borrow(), ["next"]);
        assert_eq!(progress.failed(), 1);
        let reports = scene.reports();
        assert_eq!(
            (reports[0].outcome, reports[0].tail.as_str()),
            (StepOutcome::Failed, "it cannot be done")
        );
        assert_eq!(reports[1].outcome, StepOutcome::Ok);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_step_that_does_not_apply_keeps_its_place_in_the_order() {
        let scene = Scene::new();
        let diary = Diary::default();
        let middle = Step {
            applies: |_, _| false,
            ..noted(&diary, "middle", &["first"])
        };
        let list = vec![
            noted(&diary, "last", &["middle"]),
            middle,
            noted(&diary, "first", &[]),
        ];
        run(list, &scene.site(), &scene.progress()).await.unwrap();
        assert_eq!(*diary.borrow(), ["first", "last"]);
        assert_eq!(scene.reports().len(), 2);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_ended_before_a_restart_is_not_repeated() {
        let scene = Scene::new();
        let diary = Diary::default();
        let list = |diary: &Diary| vec![noted(diary, "a", &[]), noted(diary, "b", &["a"])];
        run(list(&diary), &scene.site(), &scene.progress())
            .await
            .unwrap();
        run(list(&diary), &scene.site(), &scene.progress())
            .await
            .unwrap();
        assert_eq!(*diary.borrow(), ["a", "b"]);
    }

    #[test]
    fn impossible_orders_are_refused() {
        let diary = Diary::default();
        let plan = |steps: &[(&'static str, &[&str])]| {
            check(
                &steps
                    .iter()
                    .map(|(name, after)| noted(&diary, name, after))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            plan(&[("a", &[]), ("a", &[])]),
            Err(PlanError::Twice("a".to_owned()))
        );
        assert_eq!(
            plan(&[("a", &["z"])]).unwrap_err().to_string(),
            "boot step a comes after z, which is not there"
        );
        let circle = plan(&[("a", &["b"]), ("b", &["a"]), ("c", &["a"]), ("d", &[])]);
        assert_eq!(
            circle.unwrap_err().to_string(),
            "boot steps wait for each other: a, b, c"
        );
    }
}
