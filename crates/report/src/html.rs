//! The report as HTML.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::content::{Content, LayerPart, Pictures, layer_name};
use crate::curves;
use crate::escape::escape;
use base::memory::memory_size;
use base::text::clock;
use domain::layer_colour;

/// The style of the page, for light and dark screens.
pub const STYLE: &str = include_str!("style.css");

/// What the page may load: nothing but itself. A browser enforces this, whatever else the page may
/// contain.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// The report of a run, a whole HTML file. What came from outside is escaped, and a setting that
/// looks like a secret or an address is left out.
pub fn render(content: &Content<'_>) -> String {
    let mut html = String::new();
    page(&mut html, content).unwrap_or_default(); // writing to a String can't fail
    html
}

fn page(html: &mut String, content: &Content<'_>) -> fmt::Result {
    let (program, version) = (base::PRODUCT, env!("CARGO_PKG_VERSION"));
    let layers = content.layers.len();
    let title = format!("Training of {layers} layers");
    writeln!(
        html,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>"
    )?;
    writeln!(
        html,
        "<p class=\"dim\">{program} {version} · {:.0} · {} · {} in all</p>",
        content.ended,
        escape(content.device),
        time(content.whole)
    )?;
    for part in content.layers.iter().filter(|part| !part.course.learned) {
        let name = layer_name(part.layer);
        writeln!(
            html,
            "<p class=\"bad\">{name} learned nothing: check what was drawn in its layer.</p>"
        )?;
    }
    layer_table(html, &content.layers)?;
    if let Some(words) = content.calibration.in_words() {
        writeln!(html, "<p>Calibration of the layers: {}.</p>", escape(&words))?;
    }
    pictures(html, content)?;
    writeln!(html, "<h2>Epoch by epoch</h2>")?;
    for part in &content.layers {
        let name = layer_name(part.layer);
        let charts = curves::charts(&name, &part.course.history, part.course.best_epoch);
        writeln!(html, "<h3>{name}</h3>\n<div class=\"charts\">\n{charts}</div>")?;
    }
    facts(html, content)?;
    writeln!(html, "</body>\n</html>")
}

fn layer_table(html: &mut String, layers: &[LayerPart<'_>]) -> fmt::Result {
    writeln!(
        html,
        "<h2>Layers</h2>\n<div class=\"wide\"><table>\n\
         <tr><th>layer<th>samples<th>validated with<th>kept epoch\
         <th>epochs<th>accuracy<th>precision<th>recall<th>F1<th>restarts<th>learned<th>time</tr>"
    )?;
    for part in layers {
        let swatch = layer_colour(part.layer).map_or_else(String::new, |(_, [r, g, b])| {
            format!("<span class=\"swatch\" style=\"background:rgb({r},{g},{b})\"></span>")
        });
        write!(
            html,
            "<tr><th scope=\"row\">{swatch}{}<td>{}<td>{}<td>{}<td>{}",
            layer_name(part.layer),
            part.samples.train,
            part.samples.validation,
            part.course.best_epoch,
            part.course.history.len()
        )?;
        match part.course.best().and_then(|report| report.validation) {
            Some(m) => write!(
                html,
                "<td>{:.4}<td>{:.4}<td>{:.4}<td>{:.4}",
                m.accuracy, m.precision, m.recall, m.f1
            )?,
            None => write!(html, "<td>–<td>–<td>–<td>–")?,
        }
        let learned = if part.course.learned { "yes" } else { "<span class=\"bad\">no</span>" };
        writeln!(html, "<td>{}<td>{learned}<td>{}</tr>", part.course.restarts, time(part.time))?;
    }
    writeln!(
        html,
        "</table></div>\n<p class=\"dim\">Accuracy, precision, recall and F1 are those of the \
         validation samples after \
         the epoch that was kept.</p>"
    )
}

fn pictures(html: &mut String, content: &Content<'_>) -> fmt::Result {
    writeln!(html, "<h2>The page as the models see it</h2>")?;
    let pictures = match &content.pictures {
        Pictures::Drawn(pictures) => pictures,
        Pictures::None(why) => {
            return writeln!(html, "<p>There is no picture: {}.</p>", escape(why));
        }
    };
    let colours: Vec<_> = content
        .layers
        .iter()
        .filter_map(|part| Some((layer_name(part.layer), layer_colour(part.layer)?.0)))
        .map(|(name, colour)| format!("{name} {colour}"))
        .collect();
    let colours = colours.join(", ");
    for (picture, page) in pictures.iter().zip(&content.pages) {
        let name = page.label.map_or_else(|| "The page".to_owned(), escape);
        let image = picture.element(&format!("{name}, found layers in colours: {colours}"));
        writeln!(html, "<figure>{image}<figcaption>{name}: {colours}</figcaption></figure>")?;
    }
    if pictures.len() < content.pages.len() {
        writeln!(
            html,
            "<p>Of {} pages the first {} are shown.</p>",
            content.pages.len(),
            pictures.len()
        )?;
    }
    if content.layers.iter().all(|part| part.score.is_none()) {
        return Ok(());
    }
    writeln!(
        html,
        "<div class=\"wide\"><table>\n<tr><th>on the whole page, inside the \
        regions<th>precision<th>recall<th>F1</tr>"
    )?;
    for part in &content.layers {
        let Some(score) = part.score else { continue };
        let [precision, recall, f1] = [score.precision(), score.recall(), score.f1()];
        let name = layer_name(part.layer);
        writeln!(
            html,
            "<tr><th scope=\"row\">{name}<td>{precision:.4}<td>{recall:.4}<td>{f1:.4}</tr>"
        )?;
    }
    writeln!(html, "</table></div>")
}

fn facts(html: &mut String, content: &Content<'_>) -> fmt::Result {
    writeln!(html, "<div class=\"columns\">\n<section><h2>Run</h2>")?;
    let mut rows: Vec<(String, String)> = vec![
        ("seed".into(), content.seed.to_string()),
        ("patch".into(), format!("{} × {} (height × width)", content.patch.0, content.patch.1)),
    ];
    for page in &content.pages {
        let name = page.label.map_or_else(|| "page".to_owned(), |label| format!("page {label}"));
        rows.push((name, format!("{} × {}", page.height, page.width)));
    }
    rows.push(("device".into(), content.device.to_owned()));
    let memory = content.peak_memory.map_or_else(|| "not known".to_owned(), memory_size);
    rows.push(("peak memory".into(), memory));
    table(html, &rows)?;
    writeln!(html, "</section>\n<section><h2>Time</h2>")?;
    let mut rows: Vec<_> = Vec::new();
    for (name, took) in &content.steps {
        rows.push(((*name).to_owned(), time(*took)));
        // With the validation.
        if *name == "train" {
            let layer = |part: &LayerPart<'_>| {
                (format!("train {}", layer_name(part.layer)), time(part.time))
            };
            rows.extend(content.layers.iter().map(layer));
        }
    }
    rows.push(("whole".into(), time(content.whole)));
    table(html, &rows)?;
    writeln!(html, "</section>\n<section><h2>Settings as given</h2>")?;
    settings(html, content.given)?;
    writeln!(html, "</section>\n<section><h2>Settings in effect</h2>")?;
    settings(html, &content.effective)?;
    writeln!(html, "</section>\n</div>")
}

fn settings(html: &mut String, map: &Map<String, Value>) -> fmt::Result {
    if map.is_empty() {
        return writeln!(html, "<p>None.</p>");
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let shown = |(name, value): (&String, &Value)| {
        let text = text(value);
        // A list or an object has names of its own.
        let has_names = value.is_array() || value.is_object();
        if is_private(name, &text, has_names) {
            return ("a setting".to_owned(), "not shown: it may be private".to_owned());
        }
        (name.replace('_', " "), text)
    };
    table(html, &map.iter().map(shown).collect::<Vec<_>>())
}

/// True for what a report must not contain when it is passed on: addresses (also of e-mail), and
/// whatever is called a secret, by its own name or by one in its value. No setting that we know is
/// one, but the message may contain others.
fn is_private(name: &str, value: &str, has_names: bool) -> bool {
    let (name, both) = (name.to_lowercase(), format!("{name} {value}").to_lowercase());
    let names = if has_names { &both } else { &name };
    let secrets =
        ["token", "password", "passwort", "secret", "credential", "api key", "api_key", "apikey"];
    secrets.iter().any(|word| names.contains(word))
        || ["://", "@", "bearer "].iter().any(|part| both.contains(part))
}

fn table(html: &mut String, rows: &[(String, String)]) -> fmt::Result {
    writeln!(html, "<table class=\"facts\">")?;
    for (name, value) in rows {
        writeln!(html, "<tr><th scope=\"row\">{}<td>{}</tr>", escape(name), escape(value))?;
    }
    writeln!(html, "</table>")
}

/// Seconds with one decimal below a minute, otherwise as on a clock.
fn time(time: Duration) -> String {
    if time.as_secs() < 60 { format!("{:.1} s", time.as_secs_f64()) } else { clock(time) }
}

#[cfg(test)]
#[path = "html_tests.rs"]
mod tests;
