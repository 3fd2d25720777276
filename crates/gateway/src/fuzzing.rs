//! What strangers send, read as the gateway reads it, for the fuzz targets of the main package. No
//! part of the product calls it.

use std::path::Path;

use axum::body::Body;
use axum::extract::{Form, FromRequest as _, Request};
use serde_json::Value;

use crate::courses::Courses;
use crate::figures;
use crate::http;
use crate::intake;
use crate::order;
use crate::run_configuration::translated;
use crate::upload_form::UploadForm;
use crate::web;

/// What a request asks for, or what is wrong with which field.
pub type Read = Result<Asked, Vec<(String, String)>>;

/// What a request asks for.
#[derive(Debug)]
pub struct Asked {
    /// Its pages.
    pub pages: Vec<String>,
    /// How many runs it makes.
    pub count: u64,
    /// The settings of each.
    pub runs: Vec<domain::SettingsMap>,
}

fn read(value: &Value) -> Read {
    let order = order::read(value).map_err(|wrong| {
        wrong.into_iter().map(|problem| (problem.pointer, problem.detail)).collect::<Vec<_>>()
    })?;
    Ok(Asked { count: order.count(), runs: order.variations(), pages: order.pages })
}

/// Reads the body of a request for a run, or for a grid of them, in all words that are known;
/// `None` where it is no JSON.
pub fn run_request(body: &[u8]) -> Option<Read> {
    Some(read(&translated(serde_json::from_slice(body).ok()?)))
}

/// Reads the form in which a browser asks for runs; `None` where it is none.
pub async fn settings_form(body: &[u8]) -> Option<Read> {
    let request = Request::post("/new")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(body.to_vec()))
        .ok()?;
    let Form(fields) = Form::from_request(request, &()).await.ok()?;
    Some(read(&web::request_of(fields)))
}

/// Reads the form in which a bridge logs in: its name and its password.
pub fn login_form(body: &[u8]) -> Option<(String, String)> {
    http::who_logs_in(body)
}

/// Reads the body of a `job.progress`, and of a `training.json`, of which the events of epochs
/// come; told again, they are no news.
pub fn told(body: &[u8]) {
    let mut courses = Courses::default();
    let mut told: Vec<(String, domain::EpochReport)> = Vec::new();
    if let Ok(progress) = contract::wire::conversation::JobProgress::parse(body) {
        told.extend(progress.ended_epochs.into_iter().map(|epoch| (epoch.layer, epoch.report)));
    }
    told.extend(figures::epochs_of_record(body));
    for (model, report) in &told {
        courses.take(model, report);
        assert!(!courses.take(model, report), "an epoch was news twice");
    }
    for (name, history) in courses.into_histories() {
        assert!(history.windows(2).all(|two| two[0].epoch < two[1].epoch));
        let svg = report::charts(&name, &history, 1);
        assert_eq!(svg.matches("<svg").count(), 2);
    }
}

/// Reads a form with files, whose boundary is `edge`, into a folder in `incoming`. Returns its
/// texts, or the status and the sentence of the refusal.
///
/// # Errors
/// The refusal.
pub async fn multipart(
    body: &[u8],
    incoming: &Path,
    limit: u64,
) -> Result<Vec<(String, String)>, (u16, String)> {
    let request = Request::post("/v1/pages")
        .header("content-type", "multipart/form-data; boundary=edge")
        .body(Body::from(body.to_vec()));
    let request = request.map_err(|error| (400, error.to_string()))?;
    let form = UploadForm::from_request(request, &()).await;
    let form = form.map_err(|error| (error.status().as_u16(), error.body_text()))?;
    match intake::receive_in(incoming, limit, form, &["name", "page"]).await {
        Ok(upload) => Ok(upload.texts.clone().into_iter().collect()),
        Err(problem) => Err((problem.status, problem.detail)),
    }
}
