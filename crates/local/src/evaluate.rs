//! `--evaluate PAGE_DIR --models DIR --out DIR`: how well models cut a page whose
//! layers are drawn.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::folder::{FolderError, find_page, make_writable};
use crate::going_on::watch_signals;
use crate::predict::{
    PredictError, WindowsOption, cut, keep_the_inputs, model_files, open, settings, windows,
};
use crate::summary::Footer;
use base::exit_code::ExitCode;
use base::memory::peak_memory;
use domain::{Layer, colour_name};
use page_layers::{
    Evaluation, LayerEvaluation, Page, PageError, PictureError, choose_device, draw_errors,
};
use report::layer_name;

/// The picture of the errors.
const ERRORS: &str = "errors.png";

/// The arguments of the command line.
#[derive(Clone, Debug)]
pub(crate) struct EvaluateArgs {
    /// The program that is asked, as the JSON names it.
    pub(crate) program: &'static str,
    /// The folder of the page.
    pub(crate) page: PathBuf,
    /// The folder of the models.
    pub(crate) models: PathBuf,
    /// Where the picture goes; made when it is not there.
    pub(crate) out: PathBuf,
    /// `NAME=VALUE` settings.
    pub(crate) set: Vec<String>,
    /// The windows.
    pub(crate) windows: WindowsOption,
    /// JSON instead of the tables.
    pub(crate) json: bool,
}

/// Why the models were not evaluated.
#[derive(Debug, Error)]
pub(crate) enum EvaluateError {
    /// The page's folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// An image of the page can't be used.
    #[error(transparent)]
    Page(#[from] PageError),
    /// No model has a layer to be compared with.
    #[error("{}: none of its layers but the background has a model in {}; the model of layer_0.png \
        is named Model 0", page.display(), models.display())]
    NothingInCommon {
        /// The page's folder.
        page: PathBuf,
        /// The models' folder.
        models: PathBuf,
    },
    /// The models, the settings or the output can't be used, or the page can't be cut.
    #[error(transparent)]
    Cut(Box<PredictError>),
    /// The picture can't be written.
    #[error(transparent)]
    Write(#[from] PictureError),
}

impl From<PredictError> for EvaluateError {
    fn from(error: PredictError) -> Self {
        Self::Cut(Box::new(error))
    }
}

impl EvaluateError {
    /// The exit code that tells a script what went wrong.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Cut(error) => error.exit_code(),
            _ => ExitCode::Input,
        }
    }
}

/// Cuts the page with the models and compares the result with what is drawn; returns the tables,
/// or the JSON, to be shown. Writes `errors.png`. Everything that can be wrong with the input is
/// found before the work begins.
///
/// # Errors
///
/// [`EvaluateError`], in one sentence that names the file and what to change.
pub(crate) fn run(arguments: &EvaluateArgs) -> Result<String, EvaluateError> {
    let started = Instant::now();
    let stop = watch_signals().map_err(PredictError::Signals)?;
    let map = settings(&arguments.set, "--evaluate")?;
    let inputs = find_page(&arguments.page)?;
    let files = model_files(&arguments.models)?;
    let in_common = |(layer, _): &(Layer, PathBuf)| inputs.layers.iter().any(|(l, _)| l == layer);
    if !files.iter().any(in_common) {
        let (page, models) = (arguments.page.clone(), arguments.models.clone());
        return Err(EvaluateError::NothingInCommon { page, models });
    }
    let picture = arguments.out.join(ERRORS);
    let of_page = [&inputs.image, &inputs.background].into_iter().chain(&inputs.regions);
    let of_page = of_page.chain(inputs.layers.iter().map(|(_, path)| path));
    let read = of_page.chain(files.iter().map(|(_, path)| path));
    keep_the_inputs(read, std::slice::from_ref(&picture))?;
    let models = open(&files).map_err(PredictError::Model)?;
    let windows = windows(arguments.windows, &models, &map)?;
    let page = Page::load(&inputs)?;
    make_writable(&arguments.out)
        .map_err(|source| PredictError::Out { path: arguments.out.clone(), source })?;

    let (device, device_name) = choose_device();
    let found = cut(&page, &models, windows, &device, &|| stop.load(Ordering::Relaxed))?;
    let layers: Vec<Layer> = models.iter().map(|(layer, _)| *layer).collect();
    let evaluation = Evaluation::new(&page, &layers, &found);
    draw_errors(&picture, &page, &layers, &found)?.finish()?;
    if arguments.json {
        let mut json = as_json(arguments.program, &evaluation);
        json["page"] = json!({ "height": page.height(), "width": page.width() });
        json["picture"] = picture.display().to_string().into();
        json["seconds"] = started.elapsed().as_secs_f64().into();
        return Ok(format!("{json:#}\n"));
    }
    let footer =
        Footer { time: started.elapsed(), peak_memory: peak_memory(), device: &device_name };
    Ok(format!("{}\n{footer}\nto look at: {}\n", as_text(&evaluation), picture.display()))
}

/// A share as it is shown; nothing where there is nothing to have a share of.
fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

/// Precision, recall and F1 of a layer, as far as they are defined: precision needs a model,
/// recall a drawn layer, F1 both.
fn figures(layer: &LayerEvaluation) -> [Option<f64>; 3] {
    let both = layer.has_model && layer.is_drawn;
    [
        layer.has_model.then(|| layer.score.precision()),
        layer.is_drawn.then(|| layer.score.recall()),
        both.then(|| layer.score.f1()),
    ]
}

fn drawn(layer: &LayerEvaluation) -> u64 {
    layer.score.hits + layer.score.missed
}

fn given(layer: &LayerEvaluation) -> u64 {
    layer.score.hits + layer.score.extra
}

/// Both tables.
fn as_text(evaluation: &Evaluation) -> String {
    // Writing to a String can't fail.
    let mut text = format!(
        "{:<12}{:>13}{:>13}{:>8}{:>8}{:>8}  {}\n{}\n",
        "layer",
        "drawn",
        "given",
        "prec.",
        "recall",
        "F1",
        "errors",
        "-".repeat(72)
    );
    for layer in &evaluation.layers {
        let [precision, recall, f1] = figures(layer).map(figure);
        let colour = match (layer.has_model, colour_name(layer.layer)) {
            (false, _) => "no model",
            (true, colour) => colour.unwrap_or("black"),
        };
        let _ = writeln!(
            text,
            "{:<12}{:>13}{:>13}{precision:>8}{recall:>8}{f1:>8}  {colour}",
            layer_name(layer.layer),
            drawn(layer),
            given(layer),
        );
    }
    let _ = writeln!(
        text,
        "\nmean F1 {} · right {:.2} % of {} pixels",
        figure(evaluation.mean_f1()),
        100.0 * evaluation.right as f64 / evaluation.pixels.max(1) as f64,
        evaluation.pixels
    );
    let _ = write!(text, "\n{:<12}", "drawn as");
    for model in &evaluation.models {
        let _ = write!(text, "{:>12}", layer_name(*model));
    }
    let _ = writeln!(text, "  (% of what is drawn, given to)");
    let _ = writeln!(text, "{}", "-".repeat(12 + 12 * evaluation.models.len()));
    let mut row = |name: &str, given: &[u64]| {
        let all: u64 = given.iter().sum();
        if all > 0 {
            let share = |pixels: &u64| 100.0 * *pixels as f64 / all as f64;
            let cells: String = given.iter().map(|n| format!("{:>12.2}", share(n))).collect();
            let _ = writeln!(text, "{name:<12}{cells}");
        }
    };
    for layer in &evaluation.layers {
        row(&layer_name(layer.layer), &layer.given);
    }
    row("no layer", &evaluation.undrawn);
    text
}

/// The figures for programs; counts are pixels.
fn as_json(program: &str, evaluation: &Evaluation) -> Value {
    let by_model = |given: &[u64]| -> Map<String, Value> {
        let pairs = evaluation.models.iter().zip(given);
        pairs.map(|(model, pixels)| (layer_name(*model), (*pixels).into())).collect()
    };
    let layer = |one: &LayerEvaluation| {
        let [precision, recall, f1] = figures(one);
        json!({
            "layer": layer_name(one.layer),
            "model": one.has_model.then(|| one.layer.model_name()),
            "drawn": one.is_drawn.then(|| drawn(one)),
            "given": one.has_model.then(|| given(one)),
            "right": one.score.hits,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "given_to": by_model(&one.given),
        })
    };
    json!({
        "program": program,
        "version": env!("CARGO_PKG_VERSION"),
        "pixels": evaluation.pixels,
        "right": evaluation.right,
        "mean_f1": evaluation.mean_f1(),
        "layers": evaluation.layers.iter().map(layer).collect::<Vec<_>>(),
        "no_layer": { "given_to": by_model(&evaluation.undrawn) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Score;

    fn evaluation() -> Evaluation {
        let layer =
            |layer, has_model, is_drawn, [hits, extra, missed]: [u64; 3], given: [u64; 2]| {
                let score = Score { hits, extra, missed };
                LayerEvaluation { layer, has_model, is_drawn, score, given: given.to_vec() }
            };
        Evaluation {
            models: vec![Layer::Background, Layer::Numbered(1)],
            layers: vec![
                layer(Layer::Background, true, true, [30, 10, 10], [30, 10]),
                layer(Layer::Numbered(0), false, true, [0, 0, 8], [8, 0]),
                layer(Layer::Numbered(1), true, false, [0, 12, 0], [0, 0]),
            ],
            undrawn: vec![2, 2],
            pixels: 52,
            right: 30,
        }
    }

    #[test]
    fn a_table_has_figures_only_where_there_is_something_to_compare() {
        let text = as_text(&evaluation());
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        let background = ["Background", "40", "40", "0.750", "0.750", "0.750", "black"];
        assert_eq!(rows[2], background);
        assert_eq!(rows[3], ["Layer", "0", "8", "0", "-", "0.000", "-", "no", "model"]);
        assert_eq!(rows[4], ["Layer", "1", "0", "12", "0.000", "-", "-", "red"]);
        assert!(text.contains("mean F1 0.750 · right 57.69 % of 52 pixels"), "{text}");
        assert_eq!(rows[10], ["Background", "75.00", "25.00"]);
        assert_eq!(rows[11], ["Layer", "0", "100.00", "0.00"]);
        assert_eq!(rows[12], ["no", "layer", "50.00", "50.00"], "of layer 1 nothing is drawn");
    }

    #[test]
    fn the_json_says_the_same_and_null_where_there_is_nothing() {
        let json = as_json("run_trainer", &evaluation());
        assert_eq!(json["layers"][0]["f1"], 0.75);
        assert_eq!(json["layers"][0]["given_to"], json!({ "Background": 30, "Layer 1": 10 }));
        assert_eq!(json["layers"][1]["model"], Value::Null);
        assert_eq!(json["layers"][1]["drawn"], 8);
        assert_eq!(json["layers"][2]["model"], "Model 1");
        assert_eq!(json["layers"][2]["drawn"], Value::Null);
        assert_eq!(json["layers"][2]["f1"], Value::Null);
        assert_eq!((&json["right"], &json["mean_f1"]), (&json!(30), &json!(0.75)));
        assert_eq!(json["no_layer"]["given_to"]["Layer 1"], 2);
    }
}
