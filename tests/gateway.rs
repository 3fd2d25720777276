//! The gateway: a page goes in, models come out; what is wrong is answered by a problem document.
#![cfg(feature = "gateway")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use domain::hex_sha256;
use serde_json::{Value, json};

use crate::local::Page;
use crate::support::gateway::{
    QUICK, Site, form, id_of, names_in, page, taken_from, tiny, upload_and_train,
};
use crate::support::{SECONDS, wait_for, write_script};

#[test]
fn a_page_becomes_models() {
    let site = Site::new();
    let gateway = site.start();
    let uploaded = gateway.upload(&page()).unwrap().expect(201);
    let id = id_of(&uploaded);
    assert_eq!(uploaded.header("location"), Some(&*format!("/v1/pages/{id}")));
    let layers = uploaded.json()["layers"].as_array().unwrap().len();
    assert_eq!(layers, 4);
    // The same page is there once.
    assert_eq!(id_of(&gateway.upload(&page()).unwrap().expect(200)), id);
    assert_eq!(gateway.get("/v1/pages").json()["pages"].as_array().unwrap().len(), 1);
    let thumbnail = gateway.get(&format!("/v1/pages/{id}/thumbnail")).expect(200);
    assert_eq!(
        (thumbnail.header("content-type"), &thumbnail.body[..2]),
        (Some("image/jpeg"), &[0xff, 0xd8][..])
    );

    let mut request = tiny(&id, 2);
    request["name"] = "<script>alert(1)</script>".into();
    request["dry_run"] = true.into();
    assert_eq!(gateway.post("/v1/runs", &request).expect(200).json()["runs"], 1);
    request["dry_run"] = false.into();
    let placed = gateway.post("/v1/runs", &request).expect(202);
    assert_eq!(placed.header("location"), Some("/v1/runs/1"));
    // The stream ends with the run.
    let events = gateway.get("/v1/runs/1/events").expect(200).text();
    let states = ["queued", "launch", "running", "succeeded"];
    let found: Vec<usize> = states
        .iter()
        .map(|state| events.find(&format!("\"state\":\"{state}\"")).expect(state))
        .collect();
    assert!(found.is_sorted(), "{events}");
    assert!(events.matches("event: epoch").count() >= 4, "{events}");
    let later = [("Authorization", &*gateway.bearer()), ("Last-Event-ID", "2")];
    let later = gateway.send("GET", "/v1/runs/1/events", &later, b"").text();
    assert!(!later.contains("\nid: 2\n") && later.contains("\nid: 3\n"), "{later}");

    let run = gateway.get("/v1/runs/1").expect(200).json();
    assert_eq!((&run["state"], &run["progress"]["percent"]), (&json!("succeeded"), &json!(100)));
    assert_eq!(run["figures"]["layers"].as_array().unwrap().len(), 4);
    let files = run["files"].as_array().unwrap();
    let model = files.iter().find(|file| file["name"] == "Model 0.hdf5").unwrap();
    let whole = gateway.get(model["href"].as_str().unwrap()).expect(200);
    assert_eq!(hex_sha256(&whole.body), model["sha256"].as_str().unwrap());
    assert_eq!(&whole.body[..4], b"\x89HDF");
    let tag = whole.header("etag").unwrap();
    let with = |name: &str, value: &str| {
        let headers = [("Authorization", &*gateway.bearer()), (name, value)];
        gateway.send("GET", "/v1/runs/1/models/Model%200.hdf5", &headers, b"")
    };
    assert!(with("If-None-Match", tag).expect(304).body.is_empty());
    assert_eq!(with("Range", "bytes=4-9").expect(206).body, whole.body[4..10]);
    with("Range", "bytes=99999999-").expect(416);
    let zip = gateway.get("/v1/runs/1/models.zip").expect(200);
    assert_eq!(zip.header("content-type"), Some("application/zip"));
    assert_eq!(
        names_in(&zip),
        ["Background Model.hdf5", "Model 0.hdf5", "Model 1.hdf5", "Model 2.hdf5"]
    );
    assert!(taken_from(&zip, "Model 0.hdf5") == whole.body, "the model in the zip is another one");
    let tagged =
        [("Authorization", &*gateway.bearer()), ("If-None-Match", zip.header("etag").unwrap())];
    gateway.send("GET", "/v1/runs/1/models.zip", &tagged, b"").expect(304);
    assert!(gateway.get("/v1/runs/1/report").expect(200).text().contains("<title>Training of 4"));
    assert!(gateway.get("/v1/runs/1/log").expect(200).text().contains("patches 32x32"));
    // What a foreign program writes as a name is text on every page.
    for path in ["/", "/runs/1", "/compare?run=1", "/new"] {
        let shown = gateway.get(path).expect(200).text();
        assert!(!shown.contains("<script>alert"), "{path}: {shown}");
        assert!(path == "/new" || shown.contains("&lt;script&gt;alert"), "{path}: {shown}");
    }
    let csv = gateway.get("/compare.csv?run=1").expect(200).text();
    assert!(csv.starts_with("run,name,state,"), "{csv}");

    // Going on from these models, with other settings.
    let retried = json!({"models_from": 1, "settings": {"Maximum number of training epochs": 1}});
    let retried = gateway.post("/v1/runs/1/retry", &retried).expect(202).json();
    assert_eq!(retried["settings"]["Maximum number of training epochs"], 1);
    let retried = gateway.finish(2);
    assert_eq!(retried["state"], "succeeded", "{retried}");
    let log = gateway.get("/v1/runs/2/log").text();
    assert!(log.contains("goes on from the model that was given"), "{log}");

    // The models look for their layers on another page, which comes as an image alone.
    let form = form(&page()[..1]);
    let sent = gateway.send_form("/v1/runs/1/apply", &form).expect(202).json();
    assert_eq!((&sent["task"], &sent["models_from"]), (&json!("apply"), &json!(1)));
    let applied = gateway.finish(3);
    assert_eq!(applied["state"], "succeeded", "{applied}");
    let layers = gateway.get("/v1/runs/3/layers.zip").expect(200);
    assert_eq!(
        names_in(&layers),
        ["background.png", "layer_0.png", "layer_1.png", "layer_2.png", "image.png"]
    );
    let layer = image::load_from_memory(&taken_from(&layers, "layer_0.png")).unwrap();
    assert_eq!((layer.width(), layer.height()), (150, 150));
    assert!(gateway.get("/v1/runs/3/files/overlay.png").expect(200).body.starts_with(b"\x89PNG"));
    gateway.terminate();
    site.assert_tidy("three runs");
}

#[test]
fn layers_that_models_have_found_are_a_page_to_be_corrected_and_trained_with() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    let drawn = Page::cut(150, 150);
    let drawn_at = drawn.path("");
    write_script(&trainer, &format!("drawn='{}'{QUICK}", drawn_at.display()));
    let site = Site::with_trainer(&trainer);
    let gateway = site.start();
    assert!(upload_and_train(&gateway));
    let id = gateway.get("/v1/pages").json()["pages"][0]["id"].as_str().unwrap().to_owned();
    let applied = gateway.post("/v1/runs/1/apply", &json!({"page": id})).expect(202).json();
    assert_eq!((&applied["id"], &applied["pages"]), (&json!(2), &json!([id])));
    let applied = gateway.finish(2);
    assert_eq!(applied["state"], "succeeded", "{applied}");
    // The stand-in finds two of the three layers: what was drawn.
    let made = applied["made_page"].as_str().unwrap_or_else(|| panic!("{applied}"));
    let made = gateway.get(&format!("/v1/pages/{made}")).expect(200).json();
    let layers = made["layers"].as_array().unwrap();
    let names: Vec<_> = layers.iter().map(|layer| layer["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["background", "layer_0"]);
    let files: Vec<_> = page().into_iter().filter(|(name, _)| name == "layer_0.png").collect();
    let found = gateway.get("/v1/runs/2/files/layer_0.png").expect(200);
    assert!(found.body == files[0].1);
    gateway.post("/v1/runs", &tiny(made["id"].as_str().unwrap(), 1)).expect(202);
    assert_eq!(gateway.finish(3)["state"], "succeeded");
    // The page says so, and offers it; a run of this kind can't be applied or tried again.
    let shown = gateway.get("/runs/2").expect(200).text();
    let offer = format!("/new?page={}", made["id"].as_str().unwrap());
    assert!(shown.contains(&offer) && shown.contains("/v1/runs/2/layers.zip"), "{shown}");
    let form_there = gateway.get("/runs/1").expect(200).text();
    assert!(form_there.contains("action=\"/runs/1/apply\""), "{form_there}");
    gateway.post("/v1/runs/2/retry", &json!({})).expect(409);
    for (path, body, status) in [
        ("/v1/runs/2/apply", json!({"page": id}), 409),
        ("/v1/runs/99/apply", json!({"page": id}), 404),
        ("/v1/runs/1/apply", json!({"page": "none"}), 422),
        ("/v1/runs/1/apply", json!({}), 422),
    ] {
        gateway.post(path, &body).expect(status);
    }
    for parts in [&page()[..2], &page()[1..2], &[("image.png".to_owned(), b"GIF89a".to_vec())]] {
        gateway.send_form("/v1/runs/1/apply", &form(parts)).expect(422);
    }
    gateway.get("/v1/runs/2/models.zip").expect(404);
    gateway.get("/v1/runs/1/layers.zip").expect(404);
    gateway.terminate();
    site.assert_tidy("an application");
}

#[test]
fn a_grid_is_a_group_of_runs_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    write_script(&trainer, QUICK);
    let site = Site::with_trainer(&trainer);
    let other = site.account("other", "submitter");
    let mut gateway = site.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    let mut grid = tiny(&id, 1);
    grid["settings"]["Seed"] = json!([1, 2]);
    grid["settings"].as_object_mut().unwrap().remove("Patch width");
    grid["grid"] = json!({"Patch width": [32, 64]});
    grid["dry_run"] = true.into();
    let counted = gateway.post("/v1/runs", &grid).expect(200).json();
    assert_eq!((&counted["runs"], counted["settings"].as_array().unwrap().len()), (&json!(4), 4));
    assert_eq!(gateway.get("/v1/runs").json()["runs"], json!([]));
    let mut large = grid.clone();
    large["grid"]["Seed"] = (0..200).collect();
    large["settings"].as_object_mut().unwrap().remove("Seed");
    let refused = gateway.post("/v1/runs", &large).expect(422).json();
    assert!(refused["detail"].as_str().unwrap().contains("makes 400 runs"), "{refused}");

    // At the address of other training services; the same key is the same group.
    grid["dry_run"] = false.into();
    grid["settings"].as_object_mut().unwrap().remove("Maximum number of training epochs");
    (grid["max_epochs"], grid["_run_group_type"]) = (1.into(), "grid".into());
    let headers = [
        ("Authorization", &*gateway.bearer()),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", "grid"),
    ];
    let ask = || gateway.send("POST", "/request", &headers, grid.to_string().as_bytes());
    let asked = ask().expect(202);
    assert_eq!(asked.header("location"), Some("/v1/groups/1"));
    assert_eq!(ask().expect(202).json()["id"], asked.json()["id"]);
    assert_eq!(asked.json()["runs"].as_array().unwrap().len(), 4);
    for run in 1..=4 {
        assert_eq!(gateway.finish(run)["group"], 1);
    }
    let group = gateway.get("/v1/groups/1").expect(200).json();
    let compared = group["comparison"].as_array().unwrap();
    let pairs: BTreeSet<String> = compared
        .iter()
        .map(|row| format!("{} {}", row["settings"]["Patch width"], row["settings"]["Seed"]))
        .collect();
    assert_eq!(pairs.len(), 4, "{group}");
    assert!(compared.iter().all(|row| row["mean_f1"] == 0.5), "{group}");
    let csv = gateway.get("/compare.csv?group=1").expect(200).text();
    assert!(
        csv.starts_with("run,name,state,Patch width,Seed,F1 Model 0,mean F1,seconds\r\n"),
        "{csv}"
    );
    assert_eq!(csv.lines().count(), 5);
    let listed = gateway.get("/v1/runs?group=1&page_size=3").expect(200).json();
    assert_eq!(listed["runs"].as_array().unwrap().len(), 3);
    assert!(gateway.get("/compare?group=1").expect(200).text().contains("group=1&amp;sort="));

    // A whole group ends at once.
    write_script(&trainer, "exec cat >/dev/null");
    gateway.post("/", &grid).expect(202);
    gateway.post("/v1/groups/2/cancel", &json!({})).expect(202);
    for run in 5..=8 {
        assert_eq!(gateway.finish(run)["state"], "cancelled");
    }
    gateway.token = other;
    gateway.get("/v1/groups/1").expect(404);
    gateway.post("/v1/groups/1/cancel", &json!({})).expect(404);
    gateway.terminate();
    site.assert_tidy("grids");
}

/// A request that is refused: method, path, headers, body, the status and a part of the answer.
type Refused<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a [u8], u16, &'a str);

#[test]
fn what_is_wrong_is_a_problem_document() {
    let site = Site::new();
    let (one, other, viewer) = (
        site.account("one", "submitter"),
        site.account("other", "submitter"),
        site.account("eye", "viewer"),
    );
    let mut gateway = site.start();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    gateway.token = one;
    // A stranger's page is none, until one has it, too.
    gateway.get(&format!("/v1/pages/{id}")).expect(404);
    gateway.post("/v1/runs", &tiny(&id, 1)).expect(422);
    gateway.upload(&page()).unwrap().expect(200);
    gateway.get(&format!("/v1/pages/{id}")).expect(200);
    let run = gateway.post("/v1/runs", &tiny(&id, 5000)).expect(202).json()["id"].clone();
    gateway.token = other;
    for path in ["", "/events", "/log", "/models/Model%200.hdf5"] {
        gateway.get(&format!("/v1/runs/{run}{path}")).expect(404);
    }
    gateway.post(&format!("/v1/runs/{run}/cancel"), &json!({})).expect(404);
    gateway.token = viewer;
    gateway.get(&format!("/v1/runs/{run}")).expect(200);
    gateway.post(&format!("/v1/runs/{run}/cancel"), &json!({})).expect(403);
    gateway.upload(&page()).unwrap().expect(403);
    gateway.token = site.admin.clone();

    let bearer = gateway.bearer();
    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let mut all = vec![("Authorization", &*bearer)];
        all.extend(headers);
        gateway.send(method, path, &all, body)
    };
    let json = ("Content-Type", "application/json");
    let parts = ("Content-Type", "multipart/form-data; boundary=edge");
    let spoiled = |name: &str, bytes: &[u8]| {
        let files: Vec<_> = page()
            .into_iter()
            .map(|(file, kept)| if file == name { (file, bytes.to_vec()) } else { (file, kept) })
            .collect();
        form(&files)
    };
    let without =
        |name: &str| form(&page().into_iter().filter(|(file, _)| file != name).collect::<Vec<_>>());
    let small = {
        let page = Page::cut(100, 100);
        fs::read(page.path("layer_1.png")).unwrap()
    };
    let stranger = form(&[("notes.txt".to_owned(), b"x".to_vec())]);
    let broken = &form(&page())[..2000];
    let long = vec![b' '; 300 << 10];
    let cases: Vec<Refused> = vec![
        ("GET", "/v1/runs/999", vec![], b"", 404, "There is no such run."),
        ("GET", "/v1/runs/x", vec![], b"", 404, "There is no such run."),
        ("GET", "/v1/nothing", vec![], b"", 404, "openapi.json"),
        ("DELETE", "/v1/runs", vec![], b"", 405, "no such method"),
        ("GET", "/v1/runs?state=odd", vec![], b"", 400, "queued, launch"),
        ("GET", "/v1/runs?order=x", vec![], b"", 400, "no parameter order"),
        ("GET", "/v1/runs/1?wait=soon", vec![], b"", 400, "such as 30s"),
        ("GET", "/v1/runs/1/files/nothing", vec![], b"", 404, "no such file"),
        ("POST", "/v1/runs", vec![json], b"{", 400, "no JSON"),
        ("POST", "/v1/runs", vec![("Content-Type", "text/plain")], b"{}", 415, "send JSON"),
        ("POST", "/v1/runs", vec![json], b"{}", 422, "/pages: is missing"),
        ("POST", "/request", vec![json], b"{\"pages\": [\"x\"]}", 422, "no such page"),
        ("POST", "/v1/runs", vec![json], &long, 413, "can't be read"),
        (
            "POST",
            "/v1/runs",
            vec![json, ("Idempotency-Key", "")],
            b"{\"pages\":[\"x\"]}",
            400,
            "Idempotency-Key",
        ),
        ("POST", "/v1/pages", vec![json], b"{}", 415, "multipart/form-data"),
        ("POST", "/v1/pages", vec![parts], b"nothing", 400, "ended early"),
        ("POST", "/v1/pages", vec![parts], broken, 400, "ended early"),
        ("POST", "/v1/pages", vec![parts], &stranger, 422, "notes.txt is no part"),
    ];
    for (method, path, headers, body, status, part) in cases {
        let answer = send(method, path, &headers, body).expect(status);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        let problem = answer.json();
        assert_eq!(problem["status"], status, "{path}");
        let detail = problem["detail"].as_str().unwrap().to_lowercase();
        assert!(detail.contains(&part.to_lowercase()), "{method} {path}: {detail}");
    }
    for (body, pointer, part) in [
        (without("image.png"), Some("/image"), "send the page"),
        (without("background.png"), Some("/background"), "RGBA"),
        (spoiled("layer_1.png", &small), None, "is 100x100 pixels, but the page is 150x150"),
        (spoiled("image.png", b"GIF89a"), None, "neither a PNG nor a JPEG"),
    ] {
        let problem = send("POST", "/v1/pages", &[parts], &body).expect(422).json();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(part), "{detail}");
        // Where it lay on the server is nobody's business.
        assert!(!detail.contains("incoming"), "{detail}");
        assert_eq!(problem["errors"][0]["pointer"].as_str(), pointer, "{problem}");
    }

    // A key is one request.
    let keyed = |body: &Value| {
        send("POST", "/v1/runs", &[json, ("Idempotency-Key", "k")], body.to_string().as_bytes())
    };
    let first = keyed(&tiny(&id, 1)).expect(202).json();
    assert_eq!(keyed(&tiny(&id, 1)).expect(202).json()["id"], first["id"]);
    let problem = keyed(&tiny(&id, 2)).expect(422).json();
    assert!(problem["detail"].as_str().unwrap().contains("another request"), "{problem}");

    // One waits and is cancelled at once; one is trained and ends in a moment.
    let waiting = gateway.get(&format!("/v1/runs/{}", first["id"])).json();
    assert_eq!((&waiting["state"], &waiting["queue_position"]), (&json!("queued"), &json!(1)));
    let cancelled = gateway.post(&format!("/v1/runs/{}/cancel", first["id"]), &json!({}));
    assert_eq!(cancelled.expect(202).json()["state"], "cancelled");
    let run = run.as_i64().unwrap();
    wait_for("the training", SECONDS(60), || {
        (gateway.get(&format!("/v1/runs/{run}")).json()["state"] == "running").then_some(())
    });
    gateway.post(&format!("/v1/runs/{run}/cancel"), &json!({})).expect(202);
    assert_eq!(gateway.finish(run)["state"], "cancelled");
    let over = gateway.post(&format!("/v1/runs/{run}/cancel"), &json!({})).expect(409).json();
    assert_eq!(over["detail"], "The run is over (cancelled); there is nothing to cancel.");
    let page_of = |size: u32, token: &str| {
        gateway.get(&format!("/v1/runs?page_size={size}{token}")).expect(200).json()
    };
    let newest = page_of(1, "");
    let token = newest["next_page_token"].as_str().unwrap();
    let oldest = page_of(1, &format!("&page_token={token}"));
    assert_eq!((&newest["runs"][0]["id"], &oldest["runs"][0]["id"]), (&json!(2), &json!(1)));
    assert_eq!(oldest["next_page_token"], Value::Null);
    gateway.terminate();
    site.assert_tidy("refusals");
}

#[test]
fn nobody_gets_in_without_a_token() {
    let site = Site::new();
    let gateway = site.start();
    let post = [("Content-Type", "application/json")];
    for path in ["/v1/runs", "/v1/pages", "/status", "/metrics", "/v1/runs/1/events"] {
        let answer = gateway.send("GET", path, &[], b"").expect(401);
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"), "{path}");
        gateway.send("GET", path, &[("Authorization", "Bearer wrong")], b"").expect(401);
    }
    gateway.send("POST", "/v1/runs", &post, b"{}").expect(401);
    for path in ["/healthz", "/readyz", "/openapi.json", "/login", "/static/live.js"] {
        gateway.send("GET", path, &[], b"").expect(200);
    }
    assert_eq!(gateway.send("GET", "/", &[], b"").expect(303).header("location"), Some("/login"));
    gateway.send("GET", "/?token=wrong", &[], b"").expect(401);

    // A name that another site has chosen is none of this gateway's, whatever it stands for.
    for path in ["/healthz", "/login", "/?token=x", "/training.TrainingService/Train"] {
        let foreign = [("Host", "attacker.example:9090")];
        let refused = gateway.send("GET", path, &foreign, b"").expect(421).json();
        assert!(refused["detail"].as_str().unwrap().contains("attacker.example"), "{refused}");
        gateway.send("GET", "/healthz", &[("Host", "localhost")], b"").expect(200);
    }
    // The link is for this account alone, and goes with the gateway.
    let link = site.data().join("link");
    assert_eq!(fs::metadata(&link).unwrap().permissions().mode() & 0o777, 0o600);

    // The printed link gives the browser a cookie, which no script and no other site gets.
    let path = format!("/?token={}", gateway.link_token);
    let entered = gateway.send("GET", &path, &[], b"").expect(303);
    let cookie = entered.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let new = gateway.send("GET", "/new", &[("Cookie", cookie)], b"").expect(200);
    let policy = new.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    // A cookie alone changes nothing.
    let with = [("Cookie", cookie), ("Content-Type", "application/json")];
    for path in ["/v1/runs", "/request", "/", "/v1/runs/1/cancel"] {
        gateway.send("POST", path, &with, b"{}").expect(403);
    }
    let with = [("Cookie", cookie), ("Content-Type", "application/x-www-form-urlencoded")];
    gateway.send("POST", "/new", &with, b"pages=x").expect(403);
    let shown = new.text();
    let (_, key) = shown.split_once("name=\"form_key\" value=\"").unwrap();
    let key = key.split('"').next().unwrap();
    // With the page's own key the form is read, and shown again with what is wrong.
    let form = format!("form_key={key}&pages=x&set%3APatch+height=65");
    let again = gateway.send("POST", "/new", &with, form.as_bytes()).expect(422).text();
    assert!(again.contains("multiple of 4"), "{again}");

    let refused = site.command(&["--listen", "0.0.0.0:0"]).run();
    assert_eq!(refused.code(), Some(2), "{refused}");
    assert!(refused.stderr.contains("--behind-proxy"), "{refused}");
    let second = site.command(&["--listen", "127.0.0.1:0"]).run();
    assert_eq!(second.code(), Some(7), "{second}");
    assert!(second.stderr.contains("another gateway"), "{second}");
    // Tokens are nowhere on the disk.
    gateway.terminate();
    assert!(!link.exists());
    let database = fs::read(site.data().join("gateway.sqlite")).unwrap();
    let holds = |text: &str| database.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("boss") && !holds(&site.admin));
}

#[test]
fn an_account_that_asks_too_often_waits_and_no_other_does() {
    let site = Site::new();
    let other = site.account("other", "submitter");
    let mut gateway = site.try_start(&[], &["--max-requests", "1", "--max-upload", "1"]).unwrap();
    let refused = (0..20).map(|_| gateway.get("/status")).find(|answer| answer.status != 200);
    let refused = refused.expect("twenty requests at once are too many").expect(429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.json()["detail"].as_str().unwrap().contains("1 requests a second"));
    // Strangers use up nobody's but their own.
    let wrong = [("Authorization", "Bearer wrong")];
    let strangers = (0..20).map(|_| gateway.send("GET", "/status", &wrong, b"").status);
    assert!(strangers.collect::<BTreeSet<_>>().contains(&429));
    gateway.token = other;
    gateway.get("/status").expect(200);
    let large = form(&[("image.png".to_owned(), vec![0; 1_000_001])]);
    let refused = gateway.send_form("/v1/pages", &large).expect(413).json();
    assert!(refused["detail"].as_str().unwrap().contains("larger"), "{refused}");
    gateway.terminate();
    site.assert_tidy("too much");
}
