//! Where runs are logged, from MLflow's own variables.

use std::fmt;

use base::address::is_loopback;
use base::secret::Secret;
use reqwest::Url;
use thiserror::Error;

/// The address.
const URI: &str = "MLFLOW_TRACKING_URI";
/// The experiment.
const EXPERIMENT: &str = "MLFLOW_EXPERIMENT_NAME";
/// User and password.
const USER: &str = "MLFLOW_TRACKING_USERNAME";
const PASSWORD: &str = "MLFLOW_TRACKING_PASSWORD";
/// Or a token.
const TOKEN: &str = "MLFLOW_TRACKING_TOKEN";

/// The experiment where none is named.
const DEFAULT_EXPERIMENT: &str = "hpc-trainer";

/// Where runs are logged besides.
#[derive(Clone, Debug)]
pub struct TrackingConfig {
    /// The server's address, which ends in a slash.
    pub(super) address: Url,
    /// Who asks.
    pub(super) login: Option<Login>,
    /// The experiment that the runs belong to.
    pub(super) experiment: String,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Login {
    /// A user, and a password where there is one.
    Password { user: String, password: Option<Secret> },
    /// A token.
    Token(Secret),
}

/// A variable that can't be used. The text never repeats its value.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{name} {what}")]
pub struct TrackingError {
    name: &'static str,
    what: &'static str,
}

impl TrackingConfig {
    /// From the variables that `get` finds; `None` where no address is set.
    ///
    /// # Errors
    /// When a variable can't be used.
    pub fn from_variables(
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TrackingError> {
        let set = |name: &str| get(name).filter(|value| !value.trim().is_empty());
        let Some(text) = set(URI) else { return Ok(None) };
        let wrong = |what| TrackingError { name: URI, what };
        let no_server = "must be the address of an MLflow server, http:// or https://";
        let mut address = Url::parse(text.trim()).map_err(|_| wrong(no_server))?;
        if !matches!(address.scheme(), "http" | "https") || !address.has_host() {
            return Err(wrong(no_server));
        }
        if !address.username().is_empty() || address.password().is_some() {
            return Err(wrong(
                "must not hold a user name or a password: write them as \
                 MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            ));
        }
        if address.query().is_some() || address.fragment().is_some() {
            return Err(wrong("must end with its path: leave out what begins with ? or #"));
        }
        if !address.path().ends_with('/') {
            let path = format!("{}/", address.path());
            address.set_path(&path);
        }
        let login = match (set(USER), set(PASSWORD), set(TOKEN)) {
            (Some(user), password, _) => {
                Some(Login::Password { user, password: password.map(Secret::new) })
            }
            (None, Some(_), _) => {
                let what = "must be set, too, where MLFLOW_TRACKING_PASSWORD is";
                return Err(TrackingError { name: USER, what });
            }
            (None, None, Some(token)) => Some(Login::Token(Secret::new(token.trim()))),
            (None, None, None) => None,
        };
        let experiment = set(EXPERIMENT).unwrap_or_else(|| DEFAULT_EXPERIMENT.to_owned());
        Ok(Some(Self { address, login, experiment: experiment.trim().to_owned() }))
    }

    /// Whether a password or a token would cross a network unencrypted.
    pub fn is_exposed(&self) -> bool {
        self.login.is_some()
            && self.address.scheme() != "https"
            && !is_loopback(self.address.host_str().unwrap_or_default())
    }

    /// The address, for links and messages.
    pub fn address(&self) -> impl fmt::Display + '_ {
        &self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Option<TrackingConfig>, String> {
        let find = |name: &str| {
            set.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        };
        TrackingConfig::from_variables(find).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_is_one_of_a_server_and_holds_no_secret() {
        assert!(read(&[]).unwrap().is_none() && read(&[(URI, " ")]).unwrap().is_none());
        for (text, address) in [
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/"),
            (" https://mlflow.example.org/team ", "https://mlflow.example.org/team/"),
        ] {
            let config = read(&[(URI, text)]).unwrap().unwrap();
            assert_eq!(config.address().to_string(), address);
            assert!(config.login.is_none() && config.experiment == DEFAULT_EXPERIMENT);
        }
        for text in ["mlruns", "sqlite:///a.db", "file:///srv/mlruns", "databricks", "http://"] {
            let said = read(&[(URI, text)]).unwrap_err();
            assert!(said.starts_with("MLFLOW_TRACKING_URI must be the address"), "{text}: {said}");
        }
        for text in ["http://me:hunter2@host", "http://hunter2@host", "http://host/?token=hunter2"]
        {
            let said = read(&[(URI, text)]).unwrap_err();
            assert!(said.starts_with(URI) && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn who_asks_is_a_user_or_a_token_and_is_not_shown() {
        let uri = (URI, "http://mlflow.example.org");
        let found = |more: &[(&str, &str)]| read(&[&[uri][..], more].concat()).unwrap().unwrap();
        let user = found(&[(USER, "me"), (PASSWORD, "hunter2"), (TOKEN, "hunter3")]);
        assert!(matches!(&user.login, Some(Login::Password { user, .. }) if user == "me"));
        let token = found(&[(TOKEN, "hunter3\n"), (EXPERIMENT, "Salzinnes")]);
        assert!(matches!(&token.login, Some(Login::Token(token)) if token.expose() == "hunter3"));
        assert_eq!(token.experiment, "Salzinnes");
        for config in [&user, &token] {
            assert!(config.is_exposed() && !format!("{config:?}").contains("hunter"));
        }
        assert!(!found(&[]).is_exposed());
        let safe = read(&[(URI, "https://mlflow.example.org"), (TOKEN, "t")]).unwrap().unwrap();
        let near = read(&[(URI, "http://localhost:5000"), (TOKEN, "t")]).unwrap().unwrap();
        assert!(!safe.is_exposed() && !near.is_exposed());
        let said = read(&[uri, (PASSWORD, "hunter2")]).unwrap_err();
        assert!(said.starts_with(USER) && !said.contains("hunter2"), "{said}");
    }
}
