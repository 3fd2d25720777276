//! The pages for browsers: made on the server, complete without scripts.

mod compare;
mod entry;
mod forms;
mod layout;
mod new;
mod run;
mod runs;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use crate::app::App;
use crate::upload_form;

pub(crate) use new::request_of;

/// All routes for browsers.
pub(crate) fn routes(app: &App) -> Router<App> {
    let upload = upload_form::limit(app.limits.upload_bytes);
    Router::new()
        .route("/", get(runs::page))
        .route("/login", get(entry::page).post(entry::enter))
        .route("/new", get(new::page).post(new::place))
        .route("/new/page", post(new::upload).layer(upload))
        .route("/runs/{id}", get(run::page))
        .route("/runs/{id}/cancel", post(run::cancel))
        .route("/runs/{id}/apply", post(run::apply).layer(upload))
        .route("/groups/{id}/cancel", post(compare::cancel))
        .route("/compare", get(compare::page))
        .route("/compare.csv", get(compare::csv))
        .route("/static/style.css", get(layout::style))
        .route("/static/live.js", get(layout::script))
        .layer(DefaultBodyLimit::max(app.limits.body_bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use axum::extract::{Query, State};
    use axum::response::Response;
    use base::secret::Secret;

    use super::*;
    use crate::app::Limits;
    use crate::identity::Identity;
    use crate::order::Order;
    use crate::store::{NewRun, Role};

    #[test]
    fn what_changes_is_marked_for_the_script() {
        let folder = tempfile::tempdir().unwrap();
        let app = App::in_folder(folder.path(), Limits::default());
        let token = Secret::new("token of mine");
        app.store.add_account("me", Role::Submitter, &token).unwrap();
        let account = app.store.account_of(&token).unwrap().unwrap();
        let order = Order::default();
        let wanted =
            NewRun { account: &account, order: &order, image: None, key: None, most_waiting: 9 };
        let run = app.store.place_run(wanted).unwrap();
        let identity = Identity { account, form_key: None };
        let browser = || forms::Browser(identity.clone());
        let text = async |response: Response| {
            let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        let shown = async || {
            let query = vec![("run".to_owned(), run.to_string())];
            let all = runs::page(State(app.clone()), Query(HashMap::new()), Ok(browser())).await;
            let compared = compare::page(State(app.clone()), browser(), Query(query)).await;
            [text(all).await, text(compared).await]
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let script = "<script src=\"/static/live.js\"";
        for page in runtime.block_on(shown()) {
            let (_, live) = page.split_once("<div data-live>").unwrap();
            assert!(live.contains("<table") && page.contains(script), "{page}");
            assert!(!page.contains("data-events"), "{page}");
        }
        app.store.refuse(run, "it has no pages").unwrap();
        for page in runtime.block_on(shown()) {
            assert!(page.contains("<div data-live>") && !page.contains(script), "{page}");
        }
    }
}
