//! The goals. Those in times and rates are for a machine that has nothing else to do.

use super::latency::{CONNECT_HIGH, CONNECT_MEDIAN, PING_HIGH, PING_MEDIAN, RATE};
use super::lima::Forwarder;
use super::memory;
use super::sheet::Sheet;
use super::side::Role;
use super::throughput::Bulk;
use super::{BERTH, MACHINE, THREE_RELAYS, delays, leaks};
use crate::bench::stats::Goal;

/// A goal, and what it is about.
type Named = (String, Goal);

/// How a number becomes a goal: its own limit, unit and digits.
type Judge = fn(f64) -> Goal;

/// Everything that was measured and has a goal.
pub(super) fn all(sheet: &Sheet, processors: &Sheet) -> Vec<Named> {
    let mut goals = throughput(sheet);
    goals.extend(processor_time(processors));
    goals.extend(times(sheet));
    goals.extend(agents(sheet));
    goals
}

fn throughput(sheet: &Sheet) -> Vec<Named> {
    let mut goals = Vec::new();
    let relays = |value| Goal::at_least(0.9, value, " x", 2);
    let mut ratio = |bulk: Bulk, other: &str, judge: Judge| {
        let row = bulk.row();
        if let Some(ratio) = sheet.ratio((&row, BERTH), (&row, other)) {
            goals.push((format!("{row} / {other}"), judge(ratio)));
        }
    };
    for bulk in [Bulk::TO_GUEST, Bulk::TO_HOST] {
        // Ours pass three relays in the native-speed guest: both agents, and the port of the machine itself.
        ratio(bulk, THREE_RELAYS, relays);
        ratio(bulk, Forwarder::Grpc.name(), |value| {
            Goal::at_least(4.0, value, " x", 1)
        });
        ratio(bulk, Forwarder::Ssh.name(), |value| {
            Goal::at_least(1.3, value, " x", 1)
        });
    }
    for (eight, one) in [
        (Bulk::EIGHT_TO_GUEST, Bulk::TO_GUEST),
        (Bulk::EIGHT_TO_HOST, Bulk::TO_HOST),
    ] {
        let (eight, one) = (eight.row(), one.row());
        if let Some(ratio) = sheet.ratio((&eight, BERTH), (&one, BERTH)) {
            let name = format!("{eight} / 1 stream");
            goals.push((name, Goal::at_least(1.0, ratio, " x", 2)));
        }
    }
    goals
}

/// Of both agents, ssh and sshd, but not of the machine.
fn processor_time(processors: &Sheet) -> Vec<Named> {
    let sum = |bulk: Bulk| {
        let roles = Role::ALL.into_iter().filter(|role| *role != Role::Machine);
        let values: Vec<f64> = roles
            .filter_map(|role| processors.median(&bulk.processor_row(role), BERTH))
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    };
    [Bulk::TO_GUEST, Bulk::TO_HOST]
        .into_iter()
        .filter_map(|bulk| {
            let name = format!("{}: processor time of all", bulk.row());
            Some((name, Goal::at_most(0.8, sum(bulk)?, " s/GB", 2)))
        })
        .collect()
}

fn times(sheet: &Sheet) -> Vec<Named> {
    let mut goals = Vec::new();
    for (row, limit) in [
        (PING_MEDIAN, 160.0),
        (PING_HIGH, 450.0),
        (CONNECT_MEDIAN, 300.0),
        (CONNECT_HIGH, 1000.0),
    ] {
        if let Some(ours) = sheet.median(row, BERTH) {
            let against = sheet.median(row, MACHINE).unwrap_or(f64::NAN);
            let name = format!("{row} (hostfwd {against:.0} µs)");
            goals.push((name, Goal::at_most(limit, ours, " µs", 0)));
        }
    }
    if let Some(ours) = sheet.median(RATE, BERTH) {
        goals.push((RATE.to_owned(), Goal::at_least(8000.0, ours, " /s", 0)));
    }
    for (row, median, most) in [
        (delays::OPEN, 2.0, Some(20.0)),
        (delays::OPEN_LATE, 2.0, Some(20.0)),
        (delays::CLOSE, 5.0, Some(50.0)),
        (delays::OPEN_MANY, 40.0, None),
    ] {
        let Some(samples) = sheet.samples(row, BERTH) else {
            continue;
        };
        let goal =
            |limit, value: Option<f64>| Goal::at_most(limit, value.unwrap_or(f64::NAN), " ms", 1);
        goals.push((format!("{row}, median"), goal(median, samples.median())));
        if let Some(most) = most {
            goals.push((format!("{row}, longest"), goal(most, samples.highest())));
        }
    }
    goals
}

fn agents(sheet: &Sheet) -> Vec<Named> {
    let mut goals = Vec::new();
    for role in [Role::HostAgent, Role::GuestAgent] {
        let value = |moment| sheet.samples(&memory::row(role, moment), BERTH)?.highest();
        for moment in [memory::BULK, memory::CONNECTIONS] {
            if let Some(peak) = value(moment) {
                goals.push((
                    memory::row(role, moment),
                    Goal::at_most(24.0, peak, " MiB", 1),
                ));
            }
        }
        if let (Some(idle), Some(after)) = (value(memory::IDLE), value(memory::AFTERWARDS)) {
            let name = format!("{}, more than idle", memory::row(role, memory::AFTERWARDS));
            goals.push((name, Goal::at_most(2.0, after - idle, " MiB", 1)));
        }
        if let Some(left) = sheet.median(&leaks::row(role), BERTH) {
            goals.push((leaks::row(role), Goal::at_most(5.0, left, "", 0)));
        }
    }
    goals
}

#[cfg(test)]
mod tests {
    use super::super::sheet::Measure;
    use super::*;

    #[test]
    fn goals_are_for_what_was_measured() {
        let mut sheet = Sheet::new(vec![BERTH, MACHINE, THREE_RELAYS]);
        let nothing = Sheet::new(vec![BERTH]);
        assert!(all(&sheet, &nothing).is_empty());
        let rate = Measure::new(Bulk::TO_GUEST.row(), "MB/s", 0);
        sheet.add(&rate, BERTH, 900.0);
        sheet.add(&rate, THREE_RELAYS, 1000.0);
        sheet.add(&Measure::new(delays::CLOSE, "ms", 1), BERTH, 60.0);
        let goals = all(&sheet, &nothing);
        let verdicts: Vec<(&str, bool)> = goals
            .iter()
            .map(|(name, goal)| (name.as_str(), goal.is_met()))
            .collect();
        assert_eq!(
            verdicts,
            [
                ("host to guest, 1 stream / 3 relays", true),
                ("close to port free, median", false),
                ("close to port free, longest", false),
            ]
        );
    }

    #[test]
    fn processor_time_is_of_all_but_the_machine() {
        let mut processors = Sheet::new(vec![BERTH]);
        for role in Role::ALL {
            let row = Bulk::TO_HOST.processor_row(role);
            processors.add(&Measure::new(row, "s/GB", 2), BERTH, 0.25);
        }
        let goals = processor_time(&processors);
        assert_eq!(goals.len(), 1);
        assert_eq!(goals[0].1.measured(), "1.00 s/GB");
    }
}
