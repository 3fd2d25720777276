//! Servers that ask who we are: a real RabbitMQ that refuses clients without a certificate, and a
//! stand-in Rodan.
#![cfg(feature = "trainer")]

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use support::SECONDS;
use support::desk::Desk;
use support::program::{Program, expect};
use support::rodan::{Rodan, Setup};
use support::services::Services;

/// A PEM file of the site, with this mode.
fn file(desk: &Desk, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = desk.site.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// Sets the two variables of `whose` to these files of the site.
fn show(desk: &mut Desk, whose: &str, certificate: &str, key: &str) {
    desk.site
        .set(&format!("{whose}_CLIENT_CERT"), certificate)
        .set(&format!("{whose}_CLIENT_KEY"), key);
}

#[test]
fn a_broker_that_asks_for_a_client_certificate() {
    let asks = "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true";
    let broker = Services::private(&[("PARTS", "broker"), ("VHOSTS", "4"), ("BROKER_EXTRA", asks)]);
    let [ca, certificate, key] = ["CA", "CLIENT", "CLIENT_KEY"].map(|name| {
        fs::read_to_string(broker.variable(&format!("HPC_TRAINER_TEST_{name}"))).unwrap()
    });
    let broker = broker.with_cluster_of(Services::shared());
    let mut desk = Desk::on(broker, Some("sleep 60"), Rodan::start());
    let other = Rodan::with(Setup { tls: true, ..Setup::default() });
    let ca = file(&desk, "ca.pem", &ca, 0o644);
    file(&desk, "client.pem", &certificate, 0o644);
    file(&desk, "client.key", &key, 0o600);
    file(&desk, "open.key", &key, 0o640);
    file(&desk, "other.pem", &other.client().0, 0o644);
    file(&desk, "other.key", &other.client().1, 0o600);
    file(&desk, "empty", "", 0o600);
    let url = desk.vhost.tls_url();
    desk.site.set("RABBITMQ_HOST", url);
    let check = |desk: &Desk| desk.check().env("SSL_CERT_FILE", &ca);

    // No certificate, and one of an authority that the broker does not know.
    let finished = check(&desk).run();
    // In the broker's words; or in ours, if its connection is gone before they are read.
    expect(
        &finished,
        4,
        &["can't trust RabbitMQ", "asks for a client certificate", "RABBITMQ_CLIENT_CERT"],
    );
    show(&mut desk, "RABBITMQ", "other.pem", "other.key");
    expect(&check(&desk).run(), 4, &["can't trust RabbitMQ", "accept", "client certificate"]);

    // Files that can't be used are found before any connection is made.
    for (certificate, key, words) in [
        (
            "client.pem",
            "open.key",
            "open.key holds passwords but others may read it (mode 0640); run: chmod 600",
        ),
        (
            "client.pem",
            "other.key",
            "other.key holds the key of another certificate; name the two files of one pair",
        ),
        ("empty", "client.key", "empty is empty; name a file with certificates as PEM"),
        ("client.pem", "empty", "empty is empty; name a file with the key as PEM"),
        ("client.pem", "gone.key", "RABBITMQ_CLIENT_KEY can't be read"),
        ("gone.pem", "client.key", "RABBITMQ_CLIENT_CERT can't be read"),
        ("client.pem", "", "RABBITMQ_CLIENT_KEY is not set, but RABBITMQ_CLIENT_CERT is"),
    ] {
        show(&mut desk, "RABBITMQ", certificate, key);
        let finished = check(&desk).run();
        expect(&finished, 3, &["1 problem", words]);
        assert!(!finished.to_string().contains("PRIVATE KEY-----\n"), "{finished}");
    }

    // The right certificate: check takes a job, and the trainer delivers a reply.
    show(&mut desk, "RABBITMQ", "client.pem", "client.key");
    let id = desk.vhost.publish_job(&desk.short_job());
    check(&desk).run().success();
    desk.cluster.cancel(&desk.slurm_job(&id));
    let trainer: Program = desk.by_hand("by-hand", &desk.short_job());
    trainer.env("SSL_CERT_FILE", &ca).run().success();
    let reply = desk.vhost.receive_reply("by-hand", SECONDS(60)).json();
    assert!(reply.get("Model 0").is_some(), "{reply}");
}

#[test]
fn a_rodan_that_asks_for_a_client_certificate() {
    let setup = Setup { tls: true, client_certificates: true, ..Setup::default() };
    let mut desk = Desk::with(Some("sleep 60"), Rodan::with(setup));
    let ca = file(&desk, "ca.pem", desk.rodan.ca_pem(), 0o644);
    let (certificate, key) = desk.rodan.client().clone();
    file(&desk, "rodan.pem", &certificate, 0o644);
    file(&desk, "rodan.key", &key, 0o600);
    let id = desk.vhost.publish_job(&desk.short_job());
    let finished = desk.check().env("SSL_CERT_FILE", &ca).run();
    let words = "it asks for a client certificate, and there is none: see RABBITMQ_CLIENT_CERT and \
        RODAN_CLIENT_CERT";
    assert!(finished.code() == Some(5) && finished.stdout.contains(words), "{finished}");
    assert!(!desk.rodan.was_told(&desk.rodan.setup().password));
    let finished = desk.by_hand("without", &desk.short_job()).env("SSL_CERT_FILE", &ca).run();
    expect(&finished, 5, &["it asks for a client certificate"]);

    show(&mut desk, "RODAN", "rodan.pem", "rodan.key");
    desk.check().env("SSL_CERT_FILE", &ca).run().success();
    desk.cluster.cancel(&desk.slurm_job(&id));
    desk.by_hand("with", &desk.short_job()).env("SSL_CERT_FILE", &ca).run().success();
    let reply = desk.vhost.receive_reply("with", SECONDS(60)).json();
    assert!(reply.get("Model 0").is_some(), "{reply}");
    assert!(desk.rodan.requests().iter().any(|r| r.authorization.is_some()));

    // A plain address never asks for a certificate.
    desk.site.set("RODAN_HOST", "rodan.example");
    let finished = desk.check().env("SSL_CERT_FILE", &ca).run();
    expect(&finished, 3, &["RODAN_CLIENT_CERT is set, but the server is not reached by TLS"]);
}
