//! What to do about a failure, by its cause.

use super::cause::Cause;

impl Cause {
    /// One sentence for the person who asked. What was wrong with this one job is in its error.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Message => {
                "Correct the settings and inputs that the error names, and run the workflow again."
            }
            Self::Rodan => {
                "Make sure that the page and its layers are still there, and run the workflow again."
            }
            Self::Slurm => "Ask for fewer CPUs, less memory or less time, or leave these settings out.",
            Self::NotStarted => {
                "Ask for fewer CPUs, less memory or less time, or run the workflow again later."
            }
            Self::Input => {
                "Correct the page, the layer or the model that the error names, and run the workflow again."
            }
            Self::OutOfMemory => {
                "Set \"Maximum memory (MB)\" higher, or \"Batch Size\" or the patches smaller."
            }
            Self::Time => "Set \"Maximum time (D-HH:MM)\" higher, or train with fewer samples or epochs.",
            Self::Node => "Run the workflow again: the cluster had a fault.",
            Self::Cancelled => "Run the workflow again if that was not meant.",
            Self::Killed => "Set \"Maximum memory (MB)\" higher; most often too little of it is why.",
            Self::Setup | Self::Unknown => "Ask the operator of the cluster to look into the job's log.",
            Self::Training => "Look at the last lines of the log, and ask the operator of the cluster.",
            Self::Reply => "Ask the operator of the cluster: the models are trained and could not be sent.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_an_advice_in_one_sentence() {
        for cause in Cause::ALL {
            let advice = cause.advice();
            assert!(advice.ends_with('.') && advice.len() < 120, "{advice}");
            assert_eq!(advice.matches(". ").count(), 0, "{advice}");
        }
    }
}
