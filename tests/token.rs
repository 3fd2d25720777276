//! Where the token and the password go. Locations and redirects try to lead them elsewhere, through
//! `run_trainer` and `check`, to two stand-ins that record what they are told. Real RabbitMQ for
//! the replies.

use crate::support;

use std::fs;

use serde_json::json;

use support::desk::{Desk, job};
use support::program::Finished;
use support::rodan::{Answer, LOGIN, Rodan, Setup};

/// Somebody else's server: it gives files to everyone and records what it was told.
fn elsewhere() -> Rodan {
    Rodan::with(Setup { check_token: false, ..Setup::default() })
}

/// `run_trainer` with this location of the page, under an id of its own.
fn train(desk: &Desk, id: &str, location: &str) -> Finished {
    let mut asked = job();
    asked["inputs"]["Image"] = json!(location);
    let trainer = desk.by_hand(id, &asked);
    match desk.rodan.setup().tls {
        true => trainer.env("SSL_CERT_FILE", desk.site.path().join("ca.pem")).run(),
        false => trainer.run(),
    }
}

/// Asserts that the other server got `requests` requests, and no secret.
#[track_caller]
fn assert_not_told(elsewhere: &Rodan, desk: &Desk, requests: usize, what: &str) {
    let heard = elsewhere.requests();
    assert_eq!(heard.len(), requests, "{what}: {heard:?}");
    assert!(heard.iter().all(|request| request.authorization.is_none()), "{what}: {heard:?}");
    for secret in [&desk.rodan.setup().token, &desk.rodan.setup().password] {
        assert!(!elsewhere.was_told(secret), "{what}: {heard:?}");
    }
}

#[test]
fn no_location_in_a_message_leads_the_token_elsewhere() {
    let desk = Desk::new();
    let rodan = desk.rodan.url();
    let own = rodan.strip_prefix("http://").unwrap().to_owned();
    // (how the location is made from the other server's address, requests that the other server
    // gets)
    let forms: [(&str, usize); 16] = [
        ("http://OTHER/x.png", 1), // the same host, another port
        ("HTTP://OTHER/x.png", 1),
        ("http://OTHER/#http://RODAN/", 1),
        ("http://OTHER\\@RODAN/x.png", 1),
        ("http://RODAN@OTHER/x.png", 0),
        ("http://user:pass@OTHER/x.png", 0),
        ("@OTHER/x.png", 0),
        ("/@OTHER/x.png", 0),
        ("//OTHER/x.png", 0),
        ("///OTHER/x.png", 0),
        ("/\\OTHER/x.png", 0),
        ("\\\\OTHER\\x.png", 0),
        ("/%2F%2FOTHER/x.png", 0),
        ("/%5COTHER/x.png", 0),
        ("/\t//OTHER/x.png", 0),
        ("/..//OTHER/x.png", 0),
    ];
    std::thread::scope(|scope| {
        for (number, (form, requests)) in forms.into_iter().enumerate() {
            let (desk, own) = (&desk, &own);
            scope.spawn(move || {
                let other = elsewhere();
                let location =
                    form.replace("OTHER", &other.url()["http://".len()..]).replace("RODAN", own);
                let finished = train(desk, &format!("location-{number}"), &location);
                assert!(matches!(finished.code(), Some(5 | 11)), "{form}: {finished}");
                assert_not_told(&other, desk, requests, form);
            });
        }
    });
    assert!(
        desk.rodan.was_told(&desk.rodan.setup().token),
        "what stays with Rodan is asked with the token"
    );
}

#[test]
fn no_redirect_leads_the_token_elsewhere() {
    let desk = Desk::new();
    let forms: [(&str, usize); 6] = [
        ("http://OTHER/x.png", 1),
        ("//OTHER/x.png", 1),
        ("\\\\OTHER\\x.png", 1),
        ("http:\\\\OTHER/x.png", 1),
        ("http://user:pass@OTHER/x.png", 0),
        ("http://OTHER:99999/x.png", 0),
    ];
    std::thread::scope(|scope| {
        for (number, (form, requests)) in forms.into_iter().enumerate() {
            let desk = &desk;
            scope.spawn(move || {
                let other = elsewhere();
                let path = format!("/uploads/redirect-{number}.png");
                let to = form.replace("OTHER", &other.url()["http://".len()..]);
                desk.rodan.answer_always(&path, Answer::Redirect(to));
                let finished = train(desk, &format!("redirect-{number}"), &path);
                assert!(matches!(finished.code(), Some(5 | 11)), "{form}: {finished}");
                assert!(
                    desk.rodan.requests_for(&path).iter().all(|r| r.authorization.is_some()),
                    "{form}"
                );
                assert_not_told(&other, desk, requests, form);
            });
        }
    });
}

#[test]
fn from_https_nothing_goes_on_by_http() {
    let mut desk = Desk::with(None, Rodan::with(Setup { tls: true, ..Setup::default() }));
    fs::write(desk.site.path().join("ca.pem"), desk.rodan.ca_pem()).unwrap();
    let other = elsewhere();
    for (number, to) in
        [format!("{}/x.png", other.url()), desk.rodan.plain_url()].into_iter().enumerate()
    {
        let path = format!("/uploads/{number}.png");
        desk.rodan.answer_always(&path, Answer::Redirect(to));
        let finished = train(&desk, &format!("down-{number}"), &path);
        assert_eq!(finished.code(), Some(5), "{finished}");
        assert!(finished.stderr.contains("the server redirects from https to http"), "{finished}");
    }
    // A message that names Rodan's host by http, or at another port.
    let finished = train(&desk, "plain", &format!("{}/uploads/x.png", desk.rodan.plain_url()));
    assert_eq!(finished.code(), Some(5), "{finished}");
    assert_not_told(&other, &desk, 0, "a redirect to http");
    let token = desk.rodan.setup().token.clone();
    let plainly = desk.rodan.requests().into_iter().filter(|request| request.at_plain_door);
    assert!(
        plainly.clone().count() > 0
            && plainly.into_iter().all(|r| !format!("{r:?}").contains(&token))
    );

    // A Rodan at a plain port: only Rodan itself may lead to another port by https, not a message.
    desk.site.set("RODAN_HOST", desk.rodan.plain_url());
    let before = desk.rodan.requests().len();
    let finished = train(&desk, "port", &format!("{}/uploads/image.png", desk.rodan.url()));
    let asked = &desk.rodan.requests()[before..];
    let asked: Vec<_> =
        asked.iter().filter(|r| !r.at_plain_door && r.path == "/uploads/image.png").collect();
    assert_eq!(finished.code(), Some(5), "{finished}");
    assert!(!asked.is_empty() && asked.iter().all(|r| r.authorization.is_none()), "{finished}");
}

#[test]
fn the_password_is_not_posted_along_a_redirect_to_another_server() {
    for (form, requests) in [("http://OTHER/api/auth/token/", 0), ("//OTHER/api/auth/token/", 0)] {
        let desk = Desk::with_script("exit 0");
        let other = elsewhere();
        let to = form.replace("OTHER", &other.url()["http://".len()..]);
        desk.rodan.answer_always(LOGIN, Answer::Redirect(to));
        let id = desk.vhost.publish_job(&job());
        let finished = desk.check().run();
        assert_eq!(finished.code(), Some(5), "{finished}");
        assert!(finished.stderr.contains("it redirects the login to another server"), "{finished}");
        assert_not_told(&other, &desk, requests, form);
        assert!(desk.error_reply(&id).contains("could not log in to Rodan"));
    }
}
