//! The test infrastructure itself: the broker, the cluster and the stand-in Rodan do what the other
//! tests rely on.

use std::fs;
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use serde_json::json;

use crate::support;
use support::broker::{JOBS, RESULTS};
use support::rodan::{Answer, Generation, LOGIN, Rodan, Setup};
use support::services::Services;

const SOON: Duration = Duration::from_secs(60);

// ── The broker ───────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_job_goes_in_and_its_reply_comes_out_as_rodan_does_it() {
    let vhost = Services::shared().vhost();
    let id = vhost.publish_job(&json!({"inputs": {}, "settings": {}}));
    let [job] = &vhost.leftovers(JOBS)[..] else { panic!("one job waits") };
    assert_eq!(job.correlation_id(), Some(id.as_str()));
    assert_eq!(job.properties.reply_to().as_ref().map(|queue| queue.as_str()), Some(RESULTS));
    assert!(job.properties.content_type().is_none() && job.properties.delivery_mode().is_none());

    for (correlation_id, text) in [("another", "not ours"), (id.as_str(), "ours")] {
        let properties =
            lapin::BasicProperties::default().with_correlation_id(correlation_id.into());
        vhost.publish(RESULTS, json!({ "error": text }).to_string().as_bytes(), properties);
    }
    assert_eq!(vhost.receive_reply(&id, SOON).json(), json!({"error": "ours"}));
    let left = vhost.leftovers(RESULTS);
    assert_eq!(left.len(), 1, "the reply of another job goes back to the queue");
    assert_eq!(left[0].correlation_id(), Some("another"));
    vhost.purge(RESULTS);
    assert_eq!(vhost.waiting(RESULTS), Some(0));
    assert_eq!(vhost.waiting("no-such-queue"), None);
}

#[test]
fn tests_do_not_see_each_others_queues() {
    let services = Services::shared();
    let (one, other) = (services.vhost(), services.vhost());
    one.publish_job(&json!({}));
    assert_eq!(one.waiting(JOBS), Some(1));
    assert!(!other.queue_exists(JOBS));
}

#[test]
fn a_queue_declared_otherwise_is_refused_as_on_rodans_broker() {
    let vhost = Services::shared().vhost();
    vhost.declare_queues();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let refused = vhost.declare(JOBS, durable).unwrap_err().to_string();
    assert!(refused.contains("PRECONDITION"), "{refused}");
}

#[test]
fn the_tls_port_shows_a_certificate_of_our_ca() {
    let services = Services::shared();
    let vhost = services.vhost();
    let ca = fs::read_to_string(services.ca_file()).unwrap();
    let queue = vhost.on_tls_channel(&ca, |channel| async move {
        channel.queue_declare(JOBS.into(), QueueDeclareOptions::default(), Default::default()).await
    });
    assert_eq!(queue.unwrap().unwrap().message_count(), 0);

    let foreign = Rodan::with(Setup { tls: true, ..Setup::default() });
    let refused = vhost.on_tls_channel(foreign.ca_pem(), |_| async {});
    assert!(refused.is_err(), "a client that trusts another CA does not connect");
}

#[test]
fn a_broker_of_its_own_can_have_a_small_message_limit() {
    let services =
        Services::private(&[("PARTS", "broker"), ("VHOSTS", "1"), ("MAX_MESSAGE_SIZE", "1000")]);
    let directory = services.directory().to_owned();
    let vhost = services.vhost();
    vhost.declare_queues();
    let publish = |bytes: usize| {
        vhost.on_channel(|channel| async move {
            channel.confirm_select(Default::default()).await?;
            let body = vec![b'x'; bytes];
            channel
                .basic_publish(
                    "".into(),
                    JOBS.into(),
                    Default::default(),
                    &body,
                    Default::default(),
                )
                .await?
                .await
        })
    };
    assert!(publish(1000).is_ok());
    assert!(publish(1001).is_err());
    // Vhosts beyond those in the pool are made on demand.
    assert_eq!(services.vhost().waiting(JOBS), None);
    drop(services);
    assert!(!directory.exists());
}

// ── The cluster ──────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_job_gets_a_gpu_scratch_space_and_as_much_as_rodan_asks_for() {
    let cluster = Services::shared().cluster();
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let script =
        "echo gpu=$CUDA_VISIBLE_DEVICES cpus=$SLURM_CPUS_PER_TASK; cd $SLURM_TMPDIR && pwd";
    let id = cluster.submit(
        directory.path(),
        ["--gres=gpu:1", "--cpus-per-task=6", "--mem=257000", "--output=out.txt", "--wrap", script],
    );
    let job = cluster.wait_for_end(&id, SOON);
    assert_eq!(job["JobState"], "COMPLETED", "{job:?}");
    assert_eq!(job["WorkDir"], directory.path().display().to_string());
    let out = fs::read_to_string(directory.path().join("out.txt")).unwrap();
    let gpu = out.strip_prefix("gpu=").and_then(|rest| rest.split_once(" cpus=6\n"));
    assert!(gpu.is_some_and(|(gpu, _)| gpu.parse::<u32>().is_ok()), "one GPU, six cores: {out}");
    assert!(out.trim_end().ends_with(&format!("/scratch/{id}")), "{out}");
}

#[test]
fn a_job_is_found_by_its_name_and_can_be_cancelled() {
    let cluster = Services::shared().cluster();
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let name = format!("test-{}", uuid::Uuid::new_v4());
    let named = format!("--job-name={name}");
    let id = cluster.submit(
        directory.path(),
        ["--mem=100", "--output=/dev/null", &named, "--wrap", "sleep 60"],
    );
    assert_eq!(cluster.jobs_named(&name), [id.as_str()]);
    cluster.wait_for_state(&id, &["RUNNING"], SOON);
    cluster.cancel(&id);
    assert_eq!(cluster.wait_for_end(&id, SOON)["JobState"], "CANCELLED");
    assert!(cluster.job("999999").is_none());
}

#[test]
fn a_signal_for_the_batch_shell_reaches_what_it_was_replaced_by() {
    let cluster = Services::shared().cluster();
    let directory = tempfile::tempdir_in("/tmp").unwrap();
    let program = directory.path().join("program");
    fs::write(
        &program,
        "trap 'echo warned; exit 0' USR1\necho ready\nwhile :; do sleep 0.1; done\n",
    )
    .unwrap();
    let wrap = format!("exec bash {}", program.display());
    let id = cluster.submit(directory.path(), ["--mem=100", "--output=out.txt", "--wrap", &wrap]);
    let out = || fs::read_to_string(directory.path().join("out.txt")).unwrap_or_default();
    support::wait_for("the program to be ready", SOON, || out().contains("ready").then_some(()));
    cluster.command("scancel").args(["--batch", "--signal=USR1", &id]).run().success();
    assert_eq!(cluster.wait_for_end(&id, SOON)["JobState"], "COMPLETED");
    assert!(out().contains("warned"));
}

// ── The stand-in Rodan ───────────────────────────────────────────────────────────────────────────

/// The simplest client possible, so that the server's behaviour is seen as it is.
struct Client {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

impl Client {
    fn new(ca: Option<&str>) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = reqwest::Client::builder().timeout(SOON).no_proxy();
        if let Some(ca) = ca {
            builder = builder
                .add_root_certificate(reqwest::Certificate::from_pem(ca.as_bytes()).unwrap());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, client: builder.build().unwrap() }
    }

    /// Status and body, or what went wrong.
    fn get(&self, url: &str, token: Option<&str>) -> Result<(u16, Vec<u8>), reqwest::Error> {
        let mut request = self.client.get(url);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Token {token}"));
        }
        self.send(request)
    }

    fn log_in(&self, rodan: &Rodan, form: &[(&str, &str)]) -> (u16, String) {
        let request = self.client.post(rodan.url() + LOGIN).form(form);
        let (status, body) = self.send(request).unwrap();
        (status, String::from_utf8(body).unwrap())
    }

    fn send(&self, request: reqwest::RequestBuilder) -> Result<(u16, Vec<u8>), reqwest::Error> {
        self.runtime.block_on(async {
            let response = request.send().await?;
            Ok((response.status().as_u16(), response.bytes().await?.to_vec()))
        })
    }
}

const PAGE: &str = "/uploads/p/page.png";

#[test]
fn each_rodan_generation_reads_its_own_login_field() {
    let client = Client::new(None);
    for (generation, field, other) in
        [(Generation::Old, "username", "email"), (Generation::Current, "email", "username")]
    {
        let rodan = Rodan::with(Setup { generation, ..Setup::default() });
        let (user, password) = (rodan.setup().user.as_str(), rodan.setup().password.as_str());
        let (status, body) = client.log_in(&rodan, &[(field, user), ("password", password)]);
        assert_eq!((status, body), (200, json!({"token": rodan.setup().token}).to_string()));
        assert_eq!(client.log_in(&rodan, &[(other, user), ("password", password)]).0, 401);
        assert_eq!(client.log_in(&rodan, &[(field, user), ("password", "wrong")]).0, 401);
        assert!(rodan.was_told("wrong"));
    }
    let (status, body) = client.log_in(&Rodan::start(), &[("username", "x"), ("password", "y")]);
    assert_eq!((status, body.contains("You must supply an email.")), (401, true));
    let sleeping = Rodan::with(Setup { active: false, ..Setup::default() });
    let login = [
        ("email", sleeping.setup().user.as_str()),
        ("password", sleeping.setup().password.as_str()),
    ];
    assert_eq!(client.log_in(&sleeping, &login).0, 403);
}

#[test]
fn files_are_for_those_who_have_the_token() {
    let client = Client::new(None);
    let rodan = Rodan::start();
    rodan.put(PAGE, "page");
    let (url, token) = (rodan.url() + PAGE, rodan.setup().token.as_str());
    assert_eq!(client.get(&url, Some(token)).unwrap(), (200, b"page".to_vec()));
    assert_eq!(client.get(&url, Some("other")).unwrap().0, 401);
    assert_eq!(client.get(&url, None).unwrap().0, 401);
    assert_eq!(client.get(&(rodan.url() + "/uploads/none.png"), Some(token)).unwrap().0, 404);
    assert_eq!(rodan.requests_for(PAGE).len(), 3);
}

#[test]
fn answers_can_be_slow_broken_or_too_big() {
    let client = Client::new(None);
    let rodan = Rodan::start();
    rodan.put(PAGE, vec![7; 1000]);
    let (url, token) = (rodan.url() + PAGE, rodan.setup().token.as_str());
    let mut statuses = Vec::new();
    rodan.answer_next(PAGE, 2, &Answer::Status(503)).answer_next(
        PAGE,
        1,
        &Answer::RetryAfter(429, 1),
    );
    for _ in 0..4 {
        statuses.push(client.get(&url, Some(token)).unwrap().0);
    }
    assert_eq!(statuses, [503, 503, 429, 200]);

    rodan.answer_next(PAGE, 1, &Answer::BreakAfter(500));
    assert!(client.get(&url, Some(token)).is_err());

    let pause = Duration::from_millis(100);
    for slow in [Answer::Late(pause), Answer::Drip(500, pause)] {
        rodan.answer_next(PAGE, 1, &slow);
        let start = Instant::now();
        assert_eq!(client.get(&url, Some(token)).unwrap().1.len(), 1000);
        assert!(start.elapsed() >= pause, "{slow:?}");
    }
    for declared in [true, false] {
        rodan.answer_always(PAGE, Answer::Zeros { bytes: 3_000_000, declared });
        assert_eq!(client.get(&url, None).unwrap().1.len(), 3_000_000);
    }
}

#[test]
fn a_redirect_to_another_server_shows_what_that_server_was_told() {
    let client = Client::new(None);
    let (rodan, elsewhere) =
        (Rodan::start(), Rodan::with(Setup { check_token: false, ..Setup::default() }));
    elsewhere.put("/uploads/x", "x");
    rodan.answer_always(PAGE, Answer::Redirect(elsewhere.url() + "/uploads/x"));
    let token = rodan.setup().token.as_str();
    assert_eq!(client.get(&(rodan.url() + PAGE), Some(token)).unwrap(), (200, b"x".to_vec()));
    assert!(rodan.was_told(token));
    assert!(!elsewhere.was_told(token), "reqwest itself drops the header where the origin changes");
    client.get(&(elsewhere.url() + "/uploads/x"), Some(token)).unwrap();
    assert!(elsewhere.was_told(token));
}

#[test]
fn over_tls_the_plain_door_redirects() {
    let rodan = Rodan::with(Setup { tls: true, ..Setup::default() });
    rodan.put(PAGE, "page");
    let client = Client::new(Some(rodan.ca_pem()));
    let token = rodan.setup().token.as_str();
    assert_eq!(client.get(&(rodan.url() + PAGE), Some(token)).unwrap(), (200, b"page".to_vec()));
    client.get(&(rodan.plain_url() + PAGE), None).unwrap();
    let doors: Vec<bool> =
        rodan.requests_for(PAGE).iter().map(|request| request.at_plain_door).collect();
    assert_eq!(doors, [false, true, false]);
    assert!(Client::new(None).get(&(rodan.url() + PAGE), None).is_err(), "unknown CA");
}
