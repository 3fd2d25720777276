//! Whether the broker is there, as far as the gateway knows: for those who wait for it.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

/// What is wrong with a broker that can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is no connection with it.
    Away,
    /// It answers, and refuses what is needed.
    Refuses,
}

/// What is known of the broker; all copies are one.
#[derive(Clone, Debug)]
pub struct Reach(Arc<Mutex<Known>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// It was not asked yet.
    Nothing,
    /// It answers.
    Answers,
    /// It can't be used, since then, and this is why.
    Fails { fault: Fault, since: Timestamp, why: String },
}

impl Default for Reach {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Known::Nothing)))
    }
}

impl Reach {
    fn set(&self, known: Known) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    fn known(&self) -> Known {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It answers.
    pub(crate) fn answers(&self) {
        self.set(Known::Answers);
    }

    /// It can't be used; true when that is news.
    pub(crate) fn fails(&self, fault: Fault, why: &str) -> bool {
        let (since, news) = match self.known() {
            Known::Fails { fault: known, since, why: told } if known == fault => {
                (since, told != why)
            }
            _ => (Timestamp::now(), true),
        };
        self.set(Known::Fails { fault, since, why: why.to_owned() });
        news
    }

    /// Whether it answered when it was asked last.
    pub(crate) fn is_there(&self) -> bool {
        self.known() == Known::Answers
    }

    /// Why runs wait, in a sentence; `None` where the broker is not the reason. Without the
    /// broker's address, which is for the operator and in the log.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self.known() {
            Known::Fails { fault: Fault::Away, since, .. } => Some(format!(
                "RabbitMQ can't be reached since {since:.0}; runs wait, and are sent to the \
                 cluster when it answers again."
            )),
            Known::Fails { fault: Fault::Refuses, .. } => Some(
                "RabbitMQ answers, and refuses what the gateway needs; the gateway's log says \
                 what."
                    .to_owned(),
            ),
            Known::Nothing | Known::Answers => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_is_away_is_told_once_and_since_when() {
        let reach = Reach::default();
        assert!(!reach.is_there() && reach.trouble().is_none());
        let copy = reach.clone();
        assert!(reach.fails(Fault::Away, "no route") && !reach.fails(Fault::Away, "no route"));
        let first = copy.trouble().unwrap();
        assert!(first.contains("can't be reached since 20") && !first.contains("no route"));
        assert!(reach.fails(Fault::Away, "refused"));
        assert_eq!(copy.trouble().unwrap(), first);
        assert!(reach.fails(Fault::Refuses, "refused") && !reach.is_there());
        let refuses = copy.trouble().unwrap();
        assert!(refuses.starts_with("RabbitMQ answers, and refuses"), "{refuses}");
        reach.answers();
        assert!(copy.is_there() && copy.trouble().is_none());
    }
}
