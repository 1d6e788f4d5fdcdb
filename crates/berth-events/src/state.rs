//! The life of an instance as one enum with a total transition table.

use serde::{Deserialize, Serialize};

/// Where an instance is in its life, as the agent knows it. JSON for Lima's CLI keeps Lima's words; this one is `berthState`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum State {
    /// Not running.
    Stopped,
    /// On the way up.
    Starting {
        /// The phase under way.
        phase: String,
    },
    /// Ready, nothing wrong.
    Running,
    /// Ready, but something that was asked for does not work.
    Degraded {
        /// Named causes; never empty.
        causes: Vec<String>,
    },
    /// On the way down.
    Stopping,
    /// Ended for a reason nobody asked for.
    Failed {
        /// The reason.
        why: String,
    },
    /// The VM is alive, its agent is gone.
    Orphaned,
    /// A new agent takes over a living VM.
    Adopting,
}

impl State {
    /// Whether an instance may go from here to there. Staying where one is counts only where something within changes.
    #[must_use]
    pub fn can_become(&self, next: &Self) -> bool {
        use State::{Adopting, Degraded, Failed, Orphaned, Running, Starting, Stopped, Stopping};
        match self {
            Stopped => match next {
                Starting { .. } | Failed { .. } | Adopting => true,
                Stopped | Running | Degraded { .. } | Stopping | Orphaned => false,
            },
            Starting { .. } => match next {
                Starting { .. }
                | Running
                | Degraded { .. }
                | Stopping
                | Failed { .. }
                | Orphaned => true,
                Stopped | Adopting => false,
            },
            Running => match next {
                Degraded { .. } | Stopping | Failed { .. } | Orphaned => true,
                Stopped | Starting { .. } | Running | Adopting => false,
            },
            Degraded { .. } => match next {
                Running | Degraded { .. } | Stopping | Failed { .. } | Orphaned => true,
                Stopped | Starting { .. } | Adopting => false,
            },
            Stopping => match next {
                Stopped | Failed { .. } | Orphaned => true,
                Starting { .. } | Running | Degraded { .. } | Stopping | Adopting => false,
            },
            Failed { .. } => match next {
                Stopped | Starting { .. } => true,
                Running | Degraded { .. } | Stopping | Failed { .. } | Orphaned | Adopting => false,
            },
            Orphaned => match next {
                Stopped | Stopping | Failed { .. } | Adopting => true,
                Starting { .. } | Running | Degraded { .. } | Orphaned => false,
            },
            Adopting => match next {
                Running | Degraded { .. } | Stopping | Failed { .. } | Orphaned => true,
                Stopped | Starting { .. } | Adopting => false,
            },
        }
    }

    /// Whether a person may use the instance now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Running | Self::Degraded { .. })
    }

    /// The word that Lima's `list` shows. Before the VM has a pid an instance counts as stopped.
    #[must_use]
    pub fn lima_status(&self, vm_has_pid: bool) -> &'static str {
        match self {
            Self::Orphaned | Self::Failed { .. } => "Broken",
            Self::Stopped => "Stopped",
            Self::Starting { .. }
            | Self::Running
            | Self::Degraded { .. }
            | Self::Stopping
            | Self::Adopting => {
                if vm_has_pid {
                    "Running"
                } else {
                    "Stopped"
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [State; 8] {
        [
            State::Stopped,
            State::Starting {
                phase: "essential".into(),
            },
            State::Running,
            State::Degraded {
                causes: vec!["mounts".into()],
            },
            State::Stopping,
            State::Failed {
                why: "the VM died".into(),
            },
            State::Orphaned,
            State::Adopting,
        ]
    }

    #[test]
    fn the_whole_table_is_as_drawn() {
        // One row for each state, one column for each next state, both in the order of `all`.
        let table = [
            ".S...F.A", // Stopped
            ".SRDPFO.", // Starting
            "...DPFO.", // Running
            "..RDPFO.", // Degraded
            "T....FO.", // Stopping
            "TS......", // Failed
            "T...PF.A", // Orphaned
            "..RDPFO.", // Adopting
        ];
        for (from, row) in all().iter().zip(table) {
            for (to, cell) in all().iter().zip(row.chars()) {
                assert_eq!(from.can_become(to), cell != '.', "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn nothing_becomes_ready_on_the_way_down() {
        for down in [
            State::Stopping,
            State::Stopped,
            State::Failed { why: String::new() },
        ] {
            assert!(!down.can_become(&State::Running));
            assert!(!down.can_become(&State::Degraded { causes: Vec::new() }));
        }
    }

    #[test]
    fn lima_sees_its_own_words() {
        let words: Vec<_> = all()
            .iter()
            .map(|s| (s.lima_status(false), s.lima_status(true)))
            .collect();
        let (stopped, by_pid, broken) = (
            ("Stopped", "Stopped"),
            ("Stopped", "Running"),
            ("Broken", "Broken"),
        );
        assert_eq!(
            words,
            [
                stopped, by_pid, by_pid, by_pid, by_pid, broken, broken, by_pid
            ]
        );
    }

    #[test]
    fn a_state_survives_json() {
        for state in all() {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(
                serde_json::from_str::<State>(&json).unwrap(),
                state,
                "{json}"
            );
        }
        let json = serde_json::to_string(&all()[3]).unwrap();
        assert_eq!(json, r#"{"state":"degraded","causes":["mounts"]}"#);
    }
}
