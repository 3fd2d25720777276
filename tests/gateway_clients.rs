//! The gateway, asked by programs that nobody here wrote: schemathesis, which makes requests from
//! the description and checks the answers, and a client that is generated from the description.
//!
//! `HPC_TRAINER_TEST_PYTHON` names a Python with both; `run_tests` makes one. Where they are
//! missing, that is said, and nothing is tested.
#![cfg(feature = "gateway")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::local::Page;
use crate::support::gateway::{Gateway, QUICK, Site, id_of, page};
use crate::support::{is_installed, write_script};

/// A Python that has this module.
pub(crate) fn python_with(module: &str) -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("HPC_TRAINER_TEST_PYTHON")?);
    let mut import = Command::new(&python);
    import.args(["-c", &format!("import {module}")]).stderr(Stdio::null());
    let is_there = import.status().is_ok_and(|status| status.success());
    let place = python.display();
    assert!(is_there || !is_installed("clients"), "{place} has {module} and can't import it");
    is_there.then_some(python)
}

/// Runs a script of `tests/gateway`; what it has said.
#[track_caller]
fn run(python: &Path, script: &str, gateway: &Gateway, arguments: &[&Path]) -> String {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway");
    let output = Command::new(python)
        .arg("-B")
        .arg(scripts.join(script))
        .arg(gateway.address.to_string())
        .args(arguments)
        .env("GATEWAY_TOKEN", &gateway.token)
        .env("GATEWAY_PICTURE", scripts.join("../../examples/page/layer_0.png"))
        .env_remove("PYTHONPATH")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    said
}

#[test]
fn schemathesis_finds_no_answer_that_is_not_as_described() {
    let Some(python) = python_with("schemathesis") else {
        eprintln!("SKIPPED: there is no Python with schemathesis; ./run_tests makes one");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (trainer, drawn) = (folder.path().join("trainer"), Page::cut(150, 150));
    write_script(&trainer, &format!("drawn='{}'{QUICK}", drawn.path("").display()));
    let site = Site::with_trainer(&trainer);
    // It asks as fast as it can, and places more runs than an account may have waiting.
    let gateway = site.try_start(&[], &["--max-requests", "100000"]).unwrap();
    let id = id_of(&gateway.upload(&page()).unwrap().expect(201));
    // Without settings, so that any can be changed when it is asked for again.
    gateway.post("/v1/runs", &json!({"pages": [id]})).expect(202);
    gateway.finish(1);
    let said = run(&python, "schemathesis_run.py", &gateway, &[folder.path()]);
    eprintln!("{}", said.split("= SUMMARY =").last().unwrap_or_default());
    assert!(said.contains("Tested: 24"), "{said}");
    gateway.terminate();
}

#[test]
fn a_generated_client_trains_a_page() {
    let Some(python) = python_with("openapi_python_client") else {
        eprintln!("SKIPPED: there is no Python with openapi-python-client; ./run_tests makes one");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let drawn = Page::cut(150, 150);
    let site = Site::new();
    let gateway = site.start();
    let arguments = [folder.path(), &drawn.path("")];
    run(&python, "generated_client.py", &gateway, &arguments);
    let model = fs::read(folder.path().join("model.hdf5")).unwrap();
    let models = gateway.get("/v1/runs/1/models/Model%202.hdf5").expect(200);
    assert!(model == models.body, "another model came");
    gateway.terminate();
    site.assert_tidy("a generated client");
}
