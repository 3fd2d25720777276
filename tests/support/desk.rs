//! A login node with everything in place: a vhost, the cluster, the stand-in Rodan with the
//! example page, a site.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use super::SECONDS;
use super::broker::Vhost;
use super::program::Program;
use super::rodan::Rodan;
use super::services::{Services, repository};
use super::site::Site;
use super::slurm::Cluster;

/// The files of the example page, served by the stand-in as `/uploads/NAME`.
const PAGE: [&str; 6] =
    ["image.png", "background.png", "regions.png", "layer_0.png", "layer_1.png", "layer_2.png"];

/// What is served of them, once somebody has asked for it: most tests download nothing.
static PARTS: [OnceLock<Vec<u8>>; PAGE.len()] = [const { OnceLock::new() }; PAGE.len()];

pub(crate) struct Desk {
    pub(crate) vhost: Vhost,
    pub(crate) cluster: Cluster,
    pub(crate) rodan: Rodan,
    pub(crate) site: Site,
    pub(crate) services: Services,
}

impl Desk {
    /// With the repository's own batch script, which runs the trainer.
    pub(crate) fn new() -> Self {
        Self::with(None, Rodan::start())
    }

    /// With a batch script of the test, so that the job ends as the test needs.
    pub(crate) fn with_script(batch_script: &str) -> Self {
        Self::with(Some(batch_script), Rodan::start())
    }

    pub(crate) fn with(batch_script: Option<&str>, rodan: Rodan) -> Self {
        Self::on(Services::shared(), batch_script, rodan)
    }

    /// With services of the test's choice.
    pub(crate) fn on(services: Services, batch_script: Option<&str>, rodan: Rodan) -> Self {
        let (vhost, cluster, mut site) = (services.vhost(), services.cluster(), Site::new());
        let setup = rodan.setup().clone();
        site.use_broker(&vhost)
            .use_rodan(&rodan.url(), &setup.user, &setup.password)
            .set("GRACE_SECONDS", "1")
            // A failure is reported when the test says so, by its own check.
            .set("WATCHER", "0");
        for (name, part) in PAGE.into_iter().zip(&PARTS) {
            let part = move || part.get_or_init(|| page(name)).as_slice();
            rodan.put_when_asked(&format!("/uploads/{name}"), part);
        }
        let mut desk = Self { vhost, cluster, rodan, site, services };
        if let Some(text) = batch_script {
            desk.use_script(&format!("#!/bin/bash\n{text}\n"));
        }
        desk
    }

    /// Another batch script for the jobs that are submitted from here on, first line and all.
    pub(crate) fn use_script(&mut self, text: &str) {
        let script = self.site.path().join("batch.sh");
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
        self.site.set("BATCH_SCRIPT", "batch.sh");
    }

    /// `run_check`, as cron starts it.
    pub(crate) fn check(&self) -> Program {
        self.site.run_check(&self.cluster)
    }

    /// `run_trainer` with a job file that a person wrote, whose reply goes to `hpc-results` under
    /// this id.
    pub(crate) fn by_hand(&self, id: &str, job: &Value) -> Program {
        let mut job = job.clone();
        job["token"] = json!(self.rodan.setup().token);
        let file = self.site.path().join(format!("{id}.json"));
        fs::write(&file, job.to_string()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Program::new(super::program::run_trainer().unwrap())
            .arg(&file)
            .args([super::broker::RESULTS, id])
            .arg("--env-file")
            .arg(self.site.credentials())
            .env("TMPDIR", "/tmp")
            .limit(SECONDS(240))
    }

    /// The reply to a job from one trainer, started by hand. Several tests need the same, each in a
    /// process of its own: the first of them trains it and leaves it, with the services, to the
    /// others.
    pub(crate) fn of_one_trainer(&self, job: &Value) -> Value {
        let program = fs::metadata(super::program::run_trainer().unwrap()).unwrap();
        let mut hasher = DefaultHasher::new();
        (job.to_string(), program.modified().unwrap()).hash(&mut hasher);
        let name = format!("one-trainer-{:x}.json", hasher.finish());
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(Services::shared().directory().join(name))
            .unwrap();
        file.lock().unwrap();
        let mut kept = Vec::new();
        file.read_to_end(&mut kept).unwrap();
        if let Ok(reply) = serde_json::from_slice(&kept) {
            return reply;
        }
        self.by_hand("one-trainer", job).run().success();
        let reply = self.vhost.receive_reply("one-trainer", SECONDS(60)).json();
        file.set_len(0).unwrap();
        file.rewind().unwrap();
        file.write_all(&serde_json::to_vec(&reply).unwrap()).unwrap();
        reply
    }

    /// A job with a page of 48×48 pixels, background on the left, neumes on the right: trained in
    /// a fraction of a second.
    pub(crate) fn short_job(&self) -> Value {
        let picture = |pixel: &dyn Fn(u32, u32) -> [u8; 4]| {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 48, 48);
            encoder.set_color(png::ColorType::Rgba);
            let pixels: Vec<u8> = (0..48 * 48).flat_map(|i| pixel(i % 48, i / 48)).collect();
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
            bytes
        };
        let half =
            |right: bool| move |x: u32, _: u32| [0, 0, 0, if (x >= 24) == right { 255 } else { 0 }];
        self.rodan
            .put(
                "/uploads/i.png",
                picture(&|x, y| [if x >= 24 { 20 } else { 220 }, (y * 5) as u8, 99, 255]),
            )
            .put("/uploads/b.png", picture(&half(false)))
            .put("/uploads/0.png", picture(&half(true)));
        let mut asked = job();
        asked["inputs"] = json!({"Image": "/uploads/i.png", "Background": "/uploads/b.png",
        "rgba PNG - Layer 0": "/uploads/0.png"});
        for (name, value) in
            [("Maximum number of samples per label", 10), ("Patch height", 16), ("Patch width", 16)]
        {
            asked["settings"][name] = json!(value);
        }
        asked
    }

    /// Slurm's number of the one job for a correlation id.
    pub(crate) fn slurm_job(&self, correlation_id: &str) -> String {
        let jobs = self.cluster.jobs_named(&format!("hpct-{correlation_id}"));
        assert_eq!(jobs.len(), 1, "one Slurm job for {correlation_id}: {jobs:?}");
        jobs[0].clone()
    }

    /// The error reply of a job, of which there must be just one.
    pub(crate) fn error_reply(&self, correlation_id: &str) -> String {
        let reply = self.vhost.receive_reply(correlation_id, SECONDS(60));
        let second = self.vhost.try_receive_reply(correlation_id, Duration::from_millis(200));
        assert_eq!(second.map(|r| r.body), None, "one reply only");
        let text = reply.json();
        assert_eq!(text.as_object().unwrap().len(), 1, "{text}");
        text["error"].as_str().unwrap_or_else(|| panic!("no error in {text}")).to_owned()
    }

    /// The directory of an open job in the spool.
    pub(crate) fn directory(&self, correlation_id: &str) -> PathBuf {
        self.site.spool().join("jobs").join(correlation_id)
    }

    /// The record of an open job.
    pub(crate) fn record(&self, correlation_id: &str) -> Option<Value> {
        let text = fs::read(self.directory(correlation_id).join("record.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    /// The log of a job's Slurm job.
    pub(crate) fn log(&self, correlation_id: &str) -> String {
        self.log_of(correlation_id, &self.slurm_job(correlation_id))
    }

    /// The same without asking Slurm for the job's number.
    pub(crate) fn log_of(&self, correlation_id: &str, slurm_job: &str) -> String {
        let name = format!("hpct-{correlation_id}-{slurm_job}.log");
        fs::read_to_string(self.site.logs().join(name)).unwrap_or_default()
    }
}

impl Drop for Desk {
    /// The next test may have the vhost, unless a job or a watcher of this one may still send a
    /// reply to it.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let queue = self.cluster.command("squeue").args(["-h", "-o", "%Z"]).run();
        let home = self.site.path().to_string_lossy();
        if queue.status.success() && !queue.stdout.lines().any(|directory| directory == home) {
            self.vhost.give_back();
        }
    }
}

/// Where the part of the example page begins that jobs are trained on (x, y), and its width and
/// height in pixels. It has neumes, lines and letters, which patches of 32x32 find; larger ones do
/// not fit. A development build takes twenty seconds to draw what it has found on the whole page.
const PART: [u32; 4] = [60, 50, 136, 136];

/// A part of a file of the example page.
pub(crate) fn page(name: &str) -> Vec<u8> {
    let file = File::open(repository().join("examples/page").join(name)).unwrap();
    let mut whole = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut pixels = vec![0; whole.output_buffer_size().unwrap()];
    let frame = whole.next_frame(&mut pixels).unwrap();
    let (stride, pixel) = (frame.line_size, frame.color_type.samples());
    let [left, top, width, height] = PART.map(|number| number as usize);
    let rows = pixels.chunks_exact(stride).skip(top).take(height);
    let part: Vec<u8> =
        rows.flat_map(|row| &row[left * pixel..(left + width) * pixel]).copied().collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, PART[2], PART[3]);
    encoder.set_color(frame.color_type);
    encoder.write_header().unwrap().write_image_data(&part).unwrap();
    bytes
}

/// A job as Rodan asks for it, small enough to be trained in seconds: without a calibration, which
/// other jobs are for.
pub(crate) fn job() -> Value {
    json!({
        "inputs": {"Image": "/uploads/image.png", "Background": "/uploads/background.png",
                   "Selected Regions": "/uploads/regions.png",
                   "rgba PNG - Layer 0": "/uploads/layer_0.png"},
        "settings": {"Maximum number of training epochs": 1,
                     "Maximum number of samples per label": 24,
                     "Patch height": 32, "Patch width": 32, "CPUs": 1, "Maximum memory (MB)": 500,
                     "Maximum time (D-HH:MM)": "0-00:10", "Slurm Notification Email": "",
                     "Calibrate": "no"}
    })
}

/// The same with one setting changed.
pub(crate) fn with_setting(name: &str, value: Value) -> Value {
    let mut job = job();
    job["settings"][name] = value;
    job
}
