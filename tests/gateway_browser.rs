//! The gateway's pages in a real browser: a page is uploaded, a run is started and watched, runs
//! are compared, a model is applied; wide and narrow, light and dark, with and without scripts.
//! axe-core looks at each page, where `HPC_TRAINER_TEST_PYTHON` has it.
//! With `GATEWAY_PICTURES=FOLDER` in the environment pictures of all pages are left there.
#![cfg(feature = "gateway")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use crate::gateway_clients::python_with;
use crate::local::Page;
use crate::support::browser::Browser;
use crate::support::gateway::{QUICK, Site};
use crate::support::{SECONDS, is_installed, wait_for, write_script};

const FILES: [&str; 6] =
    ["image.png", "background.png", "regions.png", "layer_0.png", "layer_1.png", "layer_2.png"];

/// What each page has to have, in every width: all within the window, a name for every field, one
/// heading of the first order, a language.
const SOUND: &str = "(() => {
    const wrong = [];
    if (document.scrollingElement.scrollWidth > innerWidth) wrong.push('wider than the window: ' +
        [...document.querySelectorAll('body *')].filter(
            e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.wide')
        ).slice(0, 3).map(e => e.outerHTML.slice(0, 120)).join(' | '));
    if (document.querySelectorAll('h1').length !== 1) wrong.push('not one h1');
    if (!document.documentElement.lang) wrong.push('no language');
    for (const field of document.querySelectorAll('input:not([type=hidden]), select'))
        if (!field.labels.length && !field.ariaLabel) wrong.push('no label: ' + field.outerHTML);
    for (const image of document.querySelectorAll('img'))
        if (!image.alt) wrong.push('no words for ' + image.outerHTML);
    return wrong.join('; ');
})()";

/// What axe-core finds that keeps people from using the page: its serious and critical findings.
const BARRIERS: &str = "axe.run({resultTypes: ['violations']}).then(found => found.violations
    .filter(rule => ['serious', 'critical'].includes(rule.impact))
    .map(rule => rule.id + ': ' + rule.nodes.slice(0, 5).map(node =>
        node.html.slice(0, 160) + ' (' + node.failureSummary.slice(0, 300) + ')').join(' | '))
    .join('\\n'))";

/// The script of axe-core, out of its wrapper for Python's Playwright; `None` where the tests'
/// Python has none, which is said.
fn axe() -> Option<String> {
    let found = python_with("axe_playwright_python").and_then(|python| {
        let place = "import axe_playwright_python as axe; print(axe.__path__[0])";
        let place = Command::new(python).args(["-c", place]).output().ok()?.stdout;
        let place = String::from_utf8(place).ok()?;
        fs::read_to_string(Path::new(place.trim()).join("axe.min.js")).ok()
    });
    if found.is_none() {
        assert!(!is_installed("clients"), "axe-core is installed and is not found");
        eprintln!("SKIPPED in part: there is no axe-core for the tests; ./run_tests installs it");
    }
    found
}

/// Looks at the page that is open, in all widths and colours.
fn look(browser: &Browser, name: &str) {
    static AXE: LazyLock<Option<String>> = LazyLock::new(axe);
    if let Some(axe) = &*AXE {
        browser.value(&format!("{axe}; true"));
    }
    for (width, dark) in [(1280, false), (1280, true), (400, false), (400, true)] {
        browser.width(width);
        browser.dark(dark);
        assert_eq!(browser.value(SOUND), "", "{name} at {width} pixels");
        if AXE.is_some() {
            assert_eq!(browser.value(BARRIERS), "", "{name} at {width} pixels, dark: {dark}");
        }
        browser.picture(&format!("{name}-{width}{}", if dark { "-dark" } else { "" }));
    }
    browser.width(1280);
    browser.dark(false);
    assert_eq!(browser.complaints(), Vec::<String>::new(), "{name}");
}

#[test]
fn a_musicologist_uploads_trains_watches_compares_and_applies() {
    let Some(browser) = Browser::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let trainer = folder.path().join("trainer");
    let go = folder.path().join("go");
    let drawn = Page::cut(150, 150);
    let waits = format!("while [ ! -e '{}' ]; do sleep 0.05; done", go.display());
    write_script(&trainer, &format!("drawn='{}'\n{waits}{QUICK}", drawn.path("").display()));
    let site = Site::with_trainer(&trainer);
    let gateway = site.start();
    let at = |path: &str| format!("http://{}{path}", gateway.address);
    let has = |text: &str| format!("document.body.innerText.includes({text:?})");

    browser.open(&at("/"));
    assert_eq!(browser.value("location.pathname"), "/login");
    look(&browser, "login");
    browser.open(&at(&format!("/?token={}", gateway.link_token)));
    // The token stays neither in the address nor where a script could find it.
    assert_eq!(browser.value("location.href + document.cookie"), at("/"));
    browser.submit("nav a[href='/new']");
    browser.fill("input[name=name]", "Folio 12");
    browser.choose("input[name=files]", &FILES.map(|name| drawn.path(name)));
    browser.submit("form[action='/new/page'] button");
    assert_eq!(browser.value(&has("Folio 12")), true);
    assert_eq!(browser.value("document.querySelector('input[name=pages]').checked"), true);
    look(&browser, "new");

    // A grid is counted before it is started; what is wrong is said where it was.
    browser.fill("input[name='set:Patch height']", "32, 65");
    browser.submit("button[name=dry_run]");
    assert_eq!(browser.value(&has("multiple of 4")), true);
    browser.complaints(); // that the server has refused it
    browser.fill("input[name='set:Patch height']", "32, 64");
    browser.submit("button[name=dry_run]");
    assert_eq!(browser.value(&has("this makes 2 runs")), true);
    browser.submit("form[action='/new'] button:not([name])");
    assert_eq!(browser.value("location.search"), "?group=1");
    browser.open(&at("/runs/1"));
    assert_eq!(browser.value(&has("the pages are read")), true);
    // It is watched while it changes: the page is not loaded again.
    browser.value("window.here = true");
    fs::write(&go, "").unwrap();
    browser.wait("the run's end", &has("succeeded"));
    assert_eq!(browser.value("window.here"), true);
    assert_eq!(browser.value(&has("Model 0.hdf5")), true);
    look(&browser, "run");
    browser.open(&at("/runs/2"));
    browser.wait("the other run's end", &has("succeeded"));
    browser.open(&at("/compare?group=1"));
    assert_eq!(browser.value("document.querySelectorAll('tbody tr').length"), 2);
    look(&browser, "compare");

    // Without scripts everything can be done all the same.
    browser.open(&at("/runs/1"));
    browser.scripts(false);
    browser.choose("input[name=image]", &[drawn.path("image.png")]);
    browser.submit("form[action='/runs/1/apply'] button");
    browser.wait("the application's run", "location.pathname === '/runs/3'");
    wait_for("the application's end", SECONDS(60), || {
        browser.open(&at("/runs/3"));
        (browser.value(&has("succeeded")) == true).then_some(())
    });
    assert_eq!(browser.value(&has("The layers that were found are a page now")), true);
    browser.scripts(true);
    browser.open(&at("/runs/3"));
    look(&browser, "applied");
    browser.open(&at("/"));
    look(&browser, "runs");
    browser.open(&at("/runs/99"));
    browser.complaints(); // that the address is not there
    look(&browser, "missing");
    gateway.terminate();
    site.assert_tidy("a visit");
}
