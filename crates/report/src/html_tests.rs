use serde_json::json;

use super::*;
use crate::content::PagePart;
use crate::picture::Picture;
use domain::{
    Calibration, Course, EpochReport, Gain, Layer, Metrics, SampleCounts, Score, SettingsMap,
};

fn history() -> Vec<EpochReport> {
    let report = |epoch: usize| {
        let f1 = epoch as f64 / 10.0;
        let validation = Some(Metrics { loss: 0.25, accuracy: 0.9, precision: f1, recall: f1, f1 });
        EpochReport { epoch, training_loss: 0.5, validation, best: true, seconds: 2.0 }
    };
    (1..=3).map(report).collect()
}

fn rendered(given: &SettingsMap, label: Option<&str>, pictures: Pictures) -> String {
    let course = |learned| Course { history: history(), best_epoch: 2, restarts: 1, learned };
    let courses = [course(true), course(false)];
    let part = |layer, learned: bool| LayerPart {
        layer,
        samples: SampleCounts { train: 80, validation: 20 },
        course: &courses[usize::from(!learned)],
        time: Duration::from_secs(61),
        score: Some(Score { hits: 3, extra: 1, missed: 2 }),
    };
    let effective = json!({"max_samples": 100, "patience": 3});
    render(&Content {
        ended: "2026-11-01T10:00:00Z".parse().unwrap(),
        pages: vec![PagePart { label, height: 600, width: 800 }],
        patch: (64, 32),
        seed: 7,
        device: "CPU (2 threads)",
        given,
        effective: effective.as_object().cloned().unwrap(),
        layers: vec![part(Layer::Background, true), part(Layer::Numbered(3), false)],
        calibration: &Calibration::Done(Gain { pixels: 4711, before: 0.712, after: 0.774 }),
        pictures,
        steps: vec![
            ("decode", Duration::from_millis(1250)),
            ("train", Duration::from_secs(70)),
            ("predict", Duration::from_secs(4)),
        ],
        whole: Duration::from_secs(3700),
        peak_memory: Some(700 << 20),
    })
}

fn map(value: Value) -> SettingsMap {
    value.as_object().cloned().unwrap()
}

#[test]
fn everything_that_is_told_is_there() {
    let picture = Picture::new(&image::RgbImage::new(30, 20)).unwrap();
    let given = map(json!({"Patch height": "64", "Some later setting": [true]}));
    let html = rendered(&given, None, Pictures::Drawn(vec![picture]));
    for part in [
        "<tr><th scope=\"row\">Background<td>80<td>20<td>2<td>3<td>0.9000<td>0.2000<td>0.2000\
        <td>0.2000<td>1<td>yes<td>1:01",
        "Layer 3 learned nothing: check what was drawn",
        "<p>Calibration of the layers: mean F1 0.712 → 0.774 on 4711 pixels",
        "<span class=\"bad\">no</span>",
        "<img src=\"data:image/jpeg;base64,/9j/",
        "width=\"30\" height=\"20\" alt=\"The page, found layers in colours: Layer 3 purple\"",
        "<tr><th scope=\"row\">Layer 3<td>0.7500<td>0.6000<td>0.6667</tr>",
        "<th scope=\"row\">seed<td>7<",
        "<th scope=\"row\">page<td>600 × 800<",
        "64 × 32 (height × width)",
        "<th scope=\"row\">decode<td>1.2 s<",
        "<th scope=\"row\">train Layer 3<td>1:01<",
        "<th scope=\"row\">predict<td>4.0 s<",
        "<th scope=\"row\">whole<td>1:01:40<",
        "700 MiB",
        "<th scope=\"row\">Some later setting<td>[true]<",
        "<th scope=\"row\">max samples<td>100<",
        "CPU (2 threads)",
        env!("CARGO_PKG_VERSION"),
        "2026-11-01T10:00:00Z",
    ] {
        assert!(html.contains(part), "{part:?} is not in\n{html}");
    }
    // A chart of the losses and one of accuracy and F1 for each layer.
    assert_eq!(html.matches("<svg role=\"img\"").count(), 4);
}

#[test]
fn nothing_from_outside_becomes_markup_and_nothing_private_is_told() {
    let given = map(json!({
        "<script>alert(1)</script>": "\"><img src=x onerror='x'>&amp;",
        "Rodan Token": "5ecr3t-1", "PASSWORD": "5ecr3t-2",
        "Callback": "https://user:5ecr3t-3@rodan.example/?t=1",
        "Slurm Notification Email": "someone@example.org", "Header": "Bearer 5ecr3t-4",
        "Nested": {"url": "http://rodan.example/5ecr3t-5"},
        "Auth": {"password": "5ecr3t-6"}, "Logins": ["me", {"api_key": "5ecr3t-7"}],
        "Long": "x".repeat(5000),
    }));
    let html = rendered(
        &given,
        Some("</title><b onclick=x>page"),
        Pictures::None("<i>no time</i>".into()),
    );
    for wrong in ["<script", "<img", "<b ", "<i>", "onerror='", "5ecr3t", "://", "example.org"] {
        assert!(!html.contains(wrong), "{wrong:?} is in\n{html}");
    }
    assert!(html.contains(
        "&lt;script&gt;alert(1)&lt;/script&gt;<td>&quot;&gt;&lt;img src=x \
        onerror=&#39;x&#39;&gt;&amp;amp;"
    ));
    assert!(html.contains("There is no picture: &lt;i&gt;no time&lt;/i&gt;."));
    assert!(!html.contains(&"x".repeat(crate::escape::LONGEST + 1)));
}

#[test]
fn the_page_asks_for_nothing() {
    let html = rendered(&SettingsMap::new(), None, Pictures::None("it was not asked for".into()));
    for wrong in ["<script", "<link", "@import", "url(", "src=\"http", "href=", "javascript:"] {
        assert!(!html.contains(wrong), "{wrong:?} is in\n{html}");
    }
    assert!(
        html.contains("content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"")
    );
    // Every element that must be closed is closed.
    for name in ["svg", "table", "section", "div", "figure", "tr", "h2", "h3", "style", "body"] {
        let opened =
            html.matches(&format!("<{name}>")).count() + html.matches(&format!("<{name} ")).count();
        assert_eq!(opened, html.matches(&format!("</{name}>")).count(), "{name}");
    }
}
