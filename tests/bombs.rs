//! The limits for messages, servers and files: each is tried at the limit and one over, through
//! `check` and `run_trainer`. Real RabbitMQ and Slurm, the stand-in Rodan.
#![cfg(feature = "trainer")]

use crate::support;

use std::fs;
use std::io::{Cursor, Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use lapin::BasicProperties;
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use support::SECONDS;
use support::broker::{JOBS, RESULTS};
use support::desk::{Desk, job, page};
use support::program::{Program, expect, run_trainer};
use support::rodan::{Answer, LOGIN};

/// The exit code and the output of `check --dry-run` for a message.
fn dry_run(desk: &Desk, body: &[u8]) -> (Option<i32>, String) {
    let properties = BasicProperties::default()
        .with_reply_to(RESULTS.into())
        .with_correlation_id("limit".into());
    desk.vhost.declare_queues();
    desk.vhost.purge(JOBS);
    desk.vhost.publish(JOBS, body, properties);
    let finished = desk.check().arg("--dry-run").run();
    (finished.code(), format!("{}{}", finished.stdout, finished.stderr))
}

/// Asserts that the first message is a job, and that the second is not, for this reason.
#[track_caller]
fn assert_limit(desk: &Desk, at: &Value, over: &Value, words: &[&str]) {
    let (code, said) = dry_run(desk, at.to_string().as_bytes());
    assert_eq!(code, Some(0), "at the limit: {said:.2000}");
    let (code, said) = dry_run(desk, over.to_string().as_bytes());
    assert_eq!(code, Some(8), "one over: {said:.2000}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:.2000}");
    }
}

fn with_settings(values: &[(&str, Value)]) -> Value {
    let mut job = job();
    values.iter().for_each(|(name, value)| job["settings"][*name] = value.clone());
    job
}

#[test]
fn a_message_in_size_and_depth() {
    let desk = Desk::with_script("exit 0");
    let of_size = |bytes: usize| {
        let empty = with_settings(&[("filling", json!(""))]).to_string().len();
        with_settings(&[("filling", json!("x".repeat(bytes - empty)))])
    };
    assert_eq!(of_size(1 << 20).to_string().len(), 1 << 20);
    assert_limit(
        &desk,
        &of_size(1 << 20),
        &of_size((1 << 20) + 1),
        &["has 1048577 bytes, more than the 1048576"],
    );
    let of_depth = |depth: usize| {
        let nested = (0..depth - 2).fold(json!(1), |inner, _| json!([inner]));
        with_settings(&[("nested", nested)])
    };
    assert_limit(&desk, &of_depth(127), &of_depth(128), &["recursion limit exceeded"]);
    // What `check` accepts, the trainer can read too.
    let finished = desk.by_hand("deep", &{
        let mut asked = of_depth(127);
        asked["inputs"]["Image"] = json!("/uploads/gone.png");
        asked
    });
    expect(&finished.run(), 5, &["404"]);
}

#[test]
fn the_settings_in_size() {
    let desk = Desk::with_script("exit 0");
    let training = [
        ("Maximum number of training epochs", 10_000),
        ("Maximum number of samples per label", 10_000_000),
        ("Patch height", 4096),
        ("Patch width", 4096),
        ("Batch Size", 1024),
        ("Patience", 10_000),
        ("Augmentation: brightness (%)", 50),
        ("Augmentation: shift (pixels)", 2048),
    ];
    let resources = [("CPUs", 4096), ("Maximum memory (MB)", 100_000_000)];
    for limits in [&training[..], &resources] {
        let with = |more: i64| {
            let values: Vec<_> =
                limits.iter().map(|(name, limit)| (*name, json!(limit + more))).collect();
            with_settings(&values)
        };
        let words: Vec<_> = limits.iter().map(|(name, _)| *name).collect();
        assert_limit(&desk, &with(0), &with(1), &words);
    }
    let seed = |text: &str| with_settings(&[("Seed", serde_json::from_str(text).unwrap())]);
    assert_limit(&desk, &seed("18446744073709551615"), &seed("18446744073709551616"), &["Seed"]);
    let time = |text: &str| with_settings(&[("Maximum time (D-HH:MM)", json!(text))]);
    assert_limit(&desk, &time("365-00:00"), &time("365-00:01"), &["Maximum time"]);
}

#[test]
fn the_number_of_layers_and_pages() {
    let desk = Desk::with_script("exit 0");
    let with = |name: &str| {
        let mut job = job();
        (0..10)
            .for_each(|n| job["inputs"][format!("rgba PNG - Layer {n}")] = json!("/uploads/l.png"));
        (1..100).for_each(|n| job["inputs"][format!("Sample {n}")] = json!("/uploads/s.zip"));
        job["inputs"][name] = json!("/uploads/x");
        job
    };
    assert_limit(
        &desk,
        &with("Multi-Sample Zip"),
        &with("rgba PNG - Layer 10"),
        &["rgba PNG - Layer 10"],
    );
    assert_limit(&desk, &with("Sample 99"), &with("Sample 100"), &["Sample 100"]);
}

/// The exit code of a job with these inputs, and the sentence in its reply.
fn answer(desk: &Desk, id: &str, inputs: Value) -> (Option<i32>, String) {
    let mut asked = job();
    asked["inputs"] = inputs;
    let finished = desk.by_hand(id, &asked).run();
    let reply = desk.vhost.receive_reply(id, SECONDS(60)).json();
    (finished.code(), reply["error"].as_str().unwrap_or_else(|| panic!("{finished}")).to_owned())
}

/// A job's inputs with the page at this path.
fn of_page(image: &str) -> Value {
    json!({
        "Image": image, "Background": "/uploads/background.png",
        "rgba PNG - Layer 0": "/uploads/layer_0.png"
    })
}

#[test]
fn a_download_in_bytes() {
    let mut desk = Desk::new();
    let files = ["image.png", "background.png", "layer_0.png"];
    let most = files.map(|name| page(name).len() as u64).into_iter().max().unwrap();
    desk.site.set("MAX_DOWNLOAD_BYTES", most.to_string());
    for declared in [true, false] {
        for (bytes, code, words) in
            [(most, 11, "is neither a PNG nor a JPEG"), (most + 1, 5, "is larger than the")]
        {
            desk.rodan.answer_always("/uploads/zeros.png", Answer::Zeros { bytes, declared });
            let id = format!("zeros-{bytes}-{declared}");
            let (found, said) = answer(&desk, &id, of_page("/uploads/zeros.png"));
            assert!(
                found == Some(code) && said.contains(words),
                "{bytes} {declared}: {found:?} {said}"
            );
        }
    }
    // All files together may have four times as much.
    desk.site.set("MAX_DOWNLOAD_BYTES", "1000");
    let inputs = json!({
        "Image": "/uploads/a.png", "Background": "/uploads/b.png",
        "Selected Regions": "/uploads/c.png", "rgba PNG - Layer 0": "/uploads/d.png",
        "rgba PNG - Layer 1": "/uploads/e.png"
    });
    for (last, code, words) in
        [(100, 11, "is neither a PNG"), (101, 5, "together larger than the 4000 bytes")]
    {
        for name in ["a", "b", "c"] {
            let answer = Answer::Zeros { bytes: 1000, declared: false };
            desk.rodan.answer_always(&format!("/uploads/{name}.png"), answer);
        }
        desk.rodan.answer_always("/uploads/d.png", Answer::Zeros { bytes: 900, declared: true });
        desk.rodan.answer_always("/uploads/e.png", Answer::Zeros { bytes: last, declared: false });
        let (found, said) = answer(&desk, &format!("together-{last}"), inputs.clone());
        assert!(found == Some(code) && said.contains(words), "{last}: {found:?} {said}");
    }
}

#[test]
fn a_download_in_time() {
    let mut desk = Desk::new();
    let id = "drip";
    desk.rodan.answer_always("/uploads/drip.png", Answer::Drip(1, Duration::from_millis(200)));
    desk.rodan.put("/uploads/drip.png", page("image.png"));
    desk.site.set("DOWNLOAD_SECONDS", "3");
    let (code, said) = answer(&desk, id, of_page("/uploads/drip.png"));
    assert!(
        code == Some(5) && said.contains("did not arrive within 3 s (DOWNLOAD_SECONDS)"),
        "{code:?} {said}"
    );
    // A server that sends its header one byte at a time: it never answers and is never silent.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x.png", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = socket.read(&mut [0; 4096]);
                for byte in b"HTTP/1.1 200 OK\r\nX-Drip: ".iter().chain(std::iter::repeat(&b'x')) {
                    if socket.write_all(&[*byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    let (code, said) = answer(&desk, "drip-head", of_page(&url));
    assert!(code == Some(5) && said.contains("did not arrive within 3 s"), "{code:?} {said}");
    // A server that always says that it will be back soon.
    desk.rodan.answer_always("/uploads/busy.png", Answer::RetryAfter(503, 2));
    let (code, said) = answer(&desk, "busy", of_page("/uploads/busy.png"));
    assert!(code == Some(5) && said.contains("did not arrive within 3 s"), "{code:?} {said}");
    // A server that is slow, but within the time.
    desk.site.set("DOWNLOAD_SECONDS", "200");
    desk.rodan.put("/uploads/drip.png", vec![0; 20]);
    let (code, said) = answer(&desk, "slow", of_page("/uploads/drip.png"));
    assert!(code == Some(11) && said.contains("neither a PNG"), "{code:?} {said}");
}

#[test]
fn an_answer_to_the_login_in_bytes() {
    let desk = Desk::with_script("sleep 60");
    let token = &desk.rodan.setup().token;
    let of_size = |bytes: usize| {
        let empty = json!({"token": token, "filling": ""}).to_string().len();
        json!({"token": token, "filling": "x".repeat(bytes - empty)}).to_string().into_bytes()
    };
    for (bytes, code, words) in
        [((64 << 10) + 1, 5, "more than 65536 bytes"), (64 << 10, 0, "submitted")]
    {
        desk.rodan.answer_always(LOGIN, Answer::Body(of_size(bytes)));
        let id = desk.vhost.publish_job(&job());
        let finished = desk.check().run();
        assert_eq!(finished.code(), Some(code), "{bytes}: {finished}");
        assert!(finished.to_string().contains(words), "{bytes}: {finished}");
        if code == 0 {
            desk.cluster.cancel(&desk.slurm_job(&id));
        }
    }
}

/// The beginning of a PNG of this size: what its decoder reads before the first pixel.
fn png_head(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, b"x").unwrap();
    drop(writer);
    bytes
}

#[test]
fn a_picture_in_pixels() {
    let desk = Desk::new();
    for (height, words) in
        [(10_000, "can't be decoded"), (10_001, "15000x10001 pixels are too many")]
    {
        desk.rodan.put("/uploads/large.png", png_head(15_000, height));
        let (code, said) =
            answer(&desk, &format!("pixels-{height}"), of_page("/uploads/large.png"));
        assert!(code == Some(11) && said.contains(words), "{height}: {code:?} {said}");
    }
}

fn zipped(names: impl IntoIterator<Item = String>, content: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for name in names {
        zip.start_file(name, SimpleFileOptions::default()).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn a_zip_in_files_pages_and_bytes() {
    let mut desk = Desk::new();
    const PAGE: [&str; 3] =
        ["Image.png", "rgba PNG - Background layer.png", "rgba PNG - Layer 0.png"];
    let pages = |count: usize| {
        (0..count).flat_map(|n| PAGE.map(|name| format!("page {n}/{name}"))).collect::<Vec<_>>()
    };
    let files = |count: usize| {
        let hidden = (0..count - PAGE.len()).map(|n| format!(".hidden-{n}"));
        PAGE.map(str::to_owned).into_iter().chain(hidden).collect::<Vec<_>>()
    };
    let of_size = |bytes: usize| zipped(PAGE.map(str::to_owned), &vec![0; bytes]);
    // A zip bomb: it grows by more than a hundred times.
    let bomb = of_size(1 << 20);
    assert!(bomb.len() < 3 * (1 << 20) / 100);
    desk.site.set("MAX_DOWNLOAD_BYTES", (1 << 20).to_string());
    let cases = [
        ("Multi-Sample Zip", zipped(pages(100), b"x"), "neither a PNG nor a JPEG"),
        ("Multi-Sample Zip", zipped(pages(101), b"x"), "more than 100 pages"),
        ("Sample 1", zipped(files(10_000), b""), "neither a PNG nor a JPEG"),
        ("Sample 1", zipped(files(10_001), b""), "more than 10000 files"),
        ("Sample 1", bomb, "neither a PNG nor a JPEG"),
        ("Sample 1", of_size((1 << 20) + 1), "more bytes than are taken (1048576)"),
    ];
    for (number, (name, zip, words)) in cases.into_iter().enumerate() {
        desk.rodan.put("/uploads/s.zip", zip);
        let (code, said) =
            answer(&desk, &format!("zip-{number}"), json!({ name: "/uploads/s.zip" }));
        assert!(code == Some(11) && said.contains(words), "{number}: {code:?} {said}");
    }
}

#[test]
fn a_model_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    fs::create_dir(&models).unwrap();
    for (bytes, words) in
        [(256 << 20, "not a readable HDF5 file"), ((256 << 20) + 1, "268435457 bytes is too large")]
    {
        // A sparse file: it takes no room on the disk.
        for name in ["Background Model.hdf5", "Model 0.hdf5"] {
            fs::File::create(models.join(name)).unwrap().set_len(bytes).unwrap();
        }
        let image = support::services::repository().join("examples/page/image.png");
        let predict =
            Program::new(run_trainer().unwrap()).arg("--predict").arg(image).arg("--models");
        let finished = predict.arg(&models).arg("--out").arg(folder.path().join("out")).run();
        assert_eq!(finished.code(), Some(11), "{finished}");
        assert!(finished.stderr.contains(words), "{bytes}: {finished}");
    }
}
