//! The tracking server, asked by its REST interface.

use base::secret::Secret;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde_json::{Value, json};
use thiserror::Error;

use super::config::{Login, TrackingConfig};
use super::content::{Batch, Metric, Pair, WORD};
use crate::outgoing::{self, ClientError, in_words};
use crate::store::There;

/// Most bytes of an answer that are read.
const LARGEST_ANSWER: usize = 4 << 20;

/// Most parameters, and most tags, of a request.
const PAIRS: usize = 100;

/// Most metrics of a request.
const METRICS: usize = 1000;

/// Why something is not logged.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server can't be used now, for no run.
    #[error("{0}")]
    Away(String),
    /// It can't do this now, and perhaps does later.
    #[error("{0}")]
    Later(String),
    /// It will not do this.
    #[error("{0}")]
    Never(String),
}

/// The tracking server.
#[derive(Debug)]
pub(super) struct Server {
    http: reqwest::Client,
    address: Url,
    login: Option<Login>,
    experiment: String,
}

impl Server {
    /// As it is configured.
    ///
    /// # Errors
    /// When there can be no HTTP client.
    pub(super) fn new(config: TrackingConfig) -> Result<Self, ClientError> {
        let TrackingConfig { address, login, experiment } = config;
        Ok(Self { http: outgoing::client()?, address, login, experiment })
    }

    /// The id of the experiment, which is made where it is not there.
    pub(super) async fn experiment(&self) -> Result<String, Trouble> {
        let asked = [("experiment_name", &*self.experiment)];
        let found = self.get("experiments/get-by-name", &asked).await;
        let id = match found {
            Ok(found) if found["experiment"]["lifecycle_stage"] == "deleted" => {
                return Err(Trouble::Away(format!(
                    "its experiment \"{}\" is deleted; restore it, or name another with \
                     MLFLOW_EXPERIMENT_NAME",
                    self.experiment
                )));
            }
            Ok(found) => found["experiment"]["experiment_id"].clone(),
            Err(Trouble::Never(_)) => {
                let asked = json!({"name": self.experiment});
                self.post("experiments/create", &asked).await?["experiment_id"].clone()
            }
            Err(trouble) => return Err(trouble),
        };
        text_of(&id, "experiment_id")
    }

    /// The run with this word, if it is there.
    pub(super) async fn find(
        &self,
        experiment: &str,
        word: &str,
    ) -> Result<Option<There>, Trouble> {
        let asked = json!({
            "experiment_ids": [experiment], "max_results": 1,
            "filter": format!("tags.{WORD} = '{word}'"),
        });
        let found = self.post("runs/search", &asked).await?;
        match found["runs"].get(0) {
            Some(run) => Ok(Some(there(run, experiment)?)),
            None => Ok(None),
        }
    }

    /// Makes a run.
    pub(super) async fn create(
        &self,
        experiment: &str,
        title: &str,
        started: i64,
        tags: &[Pair],
    ) -> Result<There, Trouble> {
        let made = json!({
            "experiment_id": experiment, "run_name": title, "start_time": started, "tags": tags,
        });
        let made = self.post("runs/create", &made).await?;
        there(&made["run"], experiment)
    }

    /// Logs metrics, parameters and tags, in as many requests as it takes. What is there already
    /// stays once.
    pub(super) async fn log(&self, run: &str, batch: &Batch) -> Result<(), Trouble> {
        let none: (&[Metric], &[Pair], &[Pair]) = (&[], &[], &[]);
        let metrics = batch.metrics.chunks(METRICS).map(|metrics| (metrics, none.1, none.2));
        let params = batch.params.chunks(PAIRS).map(|params| (none.0, params, none.2));
        let tags = batch.tags.chunks(PAIRS).map(|tags| (none.0, none.1, tags));
        for (metrics, params, tags) in metrics.chain(params).chain(tags) {
            let asked = json!({"run_id": run, "metrics": metrics, "params": params, "tags": tags});
            self.post("runs/log-batch", &asked).await?;
        }
        Ok(())
    }

    /// Sends a file of a run; one of the same name is replaced.
    pub(super) async fn send(&self, path: &str, bytes: Vec<u8>) -> Result<(), Trouble> {
        let address = self.at(&format!("mlflow-artifacts/artifacts/{path}"))?;
        self.ask(self.http.request(Method::PUT, address).body(bytes)).await.map(drop)
    }

    /// Ends a run.
    pub(super) async fn end(&self, run: &str, status: &str, at: i64) -> Result<(), Trouble> {
        let asked = json!({"run_id": run, "status": status, "end_time": at});
        self.post("runs/update", &asked).await.map(drop)
    }

    async fn get(&self, what: &str, query: &[(&str, &str)]) -> Result<Value, Trouble> {
        let mut address = self.at(&format!("mlflow/{what}"))?;
        address.query_pairs_mut().extend_pairs(query);
        self.ask(self.http.request(Method::GET, address)).await
    }

    async fn post(&self, what: &str, body: &Value) -> Result<Value, Trouble> {
        let address = self.at(&format!("mlflow/{what}"))?;
        self.ask(self.http.request(Method::POST, address).json(body)).await
    }

    fn at(&self, path: &str) -> Result<Url, Trouble> {
        let joined = self.address.join(&format!("api/2.0/{path}"));
        joined.map_err(|_| Trouble::Never("its address can't be completed".to_owned()))
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Value, Trouble> {
        let request = match &self.login {
            Some(Login::Password { user, password }) => {
                request.basic_auth(user, password.as_ref().map(Secret::expose))
            }
            Some(Login::Token(token)) => request.bearer_auth(token.expose()),
            None => request,
        };
        let response = request.send().await.map_err(|error| away(&error))?;
        let status = response.status().as_u16();
        let answer = read(response).await?;
        judge(status, &answer)
    }
}

fn away(error: &reqwest::Error) -> Trouble {
    Trouble::Away(in_words(error))
}

async fn read(mut response: Response) -> Result<Vec<u8>, Trouble> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| away(&error))? {
        answer.extend_from_slice(&chunk);
        if answer.len() > LARGEST_ANSWER {
            return Err(Trouble::Later("its answer is larger than 4 MiB".to_owned()));
        }
    }
    Ok(answer)
}

/// What an answer means.
fn judge(status: u16, answer: &[u8]) -> Result<Value, Trouble> {
    let json: Option<Value> = serde_json::from_slice(answer).ok();
    if (200..300).contains(&status) {
        return json.ok_or_else(|| {
            Trouble::Away("what answers there is no MLflow: look at MLFLOW_TRACKING_URI".to_owned())
        });
    }
    let json = json.unwrap_or_default();
    let message = json["message"].as_str().unwrap_or_default();
    let message = match base::text::printable(message, 300) {
        none if none.is_empty() => format!("status {status}"),
        message => format!("status {status}: {message}"),
    };
    let own = json["error_code"].is_string();
    Err(match status {
        300..400 => Trouble::Away(format!(
            "it leads elsewhere ({message}); set MLFLOW_TRACKING_URI to where it leads"
        )),
        401 | 403 => Trouble::Away(format!(
            "it refuses the login ({message}); look at MLFLOW_TRACKING_USERNAME and \
             MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )),
        404 | 405 if !own => Trouble::Away(format!(
            "what answers there is no MLflow ({message}): look at MLFLOW_TRACKING_URI"
        )),
        408 | 429 | 502..=504 => Trouble::Away(format!("it is busy ({message})")),
        400..500 => Trouble::Never(format!("it refuses ({message})")),
        _ => Trouble::Later(format!("it failed ({message})")),
    })
}

fn there(run: &Value, experiment: &str) -> Result<There, Trouble> {
    let info = &run["info"];
    Ok(There {
        id: text_of(&info["run_id"], "run_id")?,
        experiment: experiment.to_owned(),
        artifacts: text_of(&info["artifact_uri"], "artifact_uri")?,
    })
}

fn text_of(value: &Value, name: &str) -> Result<String, Trouble> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| {
        Trouble::Away(format!("what answers there is no MLflow: it names no {name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_to_wait_to_go_on_or_to_leave_it() {
        let own = br#"{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no\u001b[31m run"}"#;
        assert_eq!(judge(200, br#"{"a": 1}"#).unwrap()["a"], 1);
        let said = |status, answer: &[u8]| judge(status, answer).unwrap_err();
        for (status, answer, words) in [
            (200, &b"<html>"[..], "is no MLflow"),
            (302, b"", "leads elsewhere (status 302)"),
            (401, b"You are not authenticated", "refuses the login"),
            (403, own, "refuses the login (status 403: no"),
            (404, b"<html>Not found", "is no MLflow (status 404)"),
            (405, b"", "is no MLflow"),
            (429, b"", "busy"),
            (503, own, "busy"),
        ] {
            let trouble = said(status, answer);
            assert!(matches!(trouble, Trouble::Away(_)), "{status}: {trouble:?}");
            let text = trouble.to_string();
            assert!(text.contains(words) && !text.contains('\u{1b}'), "{status}: {text}");
        }
        for status in [400, 404, 409, 413, 422] {
            assert!(matches!(said(status, own), Trouble::Never(_)), "{status}");
        }
        assert!(matches!(said(413, b"too large"), Trouble::Never(_)));
        for status in [500, 507] {
            assert!(matches!(said(status, own), Trouble::Later(_)), "{status}");
        }
    }
}
