//! `slsml inspect`.

use slsml_import::{Inspection, Prepared};

use super::package::{bytes, tensors};
use crate::args;
use crate::failure::{Exit, Failure};
use crate::printer::Printer;
use crate::settings::Settings;

/// Nodes named one by one; the rest is counted.
const NAMED: usize = 10;

pub(crate) fn run(
    settings: &Settings,
    args: args::Inspect,
    printer: &Printer,
) -> Result<Exit, Failure> {
    let model = settings.model(args.model)?;
    let shapes = settings.shapes(args.shapes, args.dims)?;
    let step = printer.step(&format!("Inspecting {}", model.display()));
    let inspection = slsml_import::inspect(&model, &shapes)?;
    drop(step);
    printer.result(&inspection, || text(&inspection))?;
    Ok(if inspection.refusal.is_some() { Exit::Model } else { Exit::Done })
}

fn text(inspection: &Inspection) -> String {
    let pairs = |pairs: Vec<String>| pairs.join(", ");
    let mut operators: Vec<_> = inspection.operators.iter().collect();
    operators.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
    let operators = operators.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let opsets = inspection.opsets.iter().map(|(name, version)| format!("{name} {version}"));
    let mut lines = vec![
        format!("file        {}", bytes(inspection.file_bytes)),
        format!("made by     {}", inspection.producer),
        format!("opset       {}", pairs(opsets.collect())),
        format!("operators   {}", pairs(operators)),
    ];
    for node in inspection.unsupported.iter().take(NAMED) {
        lines.push(format!(
            "not known   {} ({}, opset {}), in node `{}`",
            node.operator, node.domain, node.opset, node.node
        ));
    }
    if inspection.unsupported.len() > NAMED {
        lines.push(format!("not known   {} nodes more", inspection.unsupported.len() - NAMED));
    }
    match (&inspection.packaged, &inspection.refusal) {
        (Some(prepared), _) => packaged(prepared, &mut lines),
        (None, Some(refusal)) => {
            lines.push(format!("refused     {}", refusal.message));
            lines.extend(refusal.help.iter().map(|help| format!("            {help}")));
        }
        (None, None) => {}
    }
    lines.join("\n")
}

fn packaged(prepared: &Prepared, lines: &mut Vec<String>) {
    lines.push(format!("takes       {}", tensors(&prepared.signature.inputs)));
    lines.push(format!("gives       {}", tensors(&prepared.signature.outputs)));
    lines.push(format!(
        "packaged    {}, {} of it weights; {} nodes",
        bytes(prepared.bytes),
        bytes(prepared.weights_bytes),
        prepared.nodes
    ));
    let stages = prepared.stages_ms.iter().map(|(name, ms)| format!("{name} {ms:.1} ms"));
    lines.push(format!("stages      {}", stages.collect::<Vec<_>>().join(", ")));
    lines.push("            packaging does all but the last; every start pays the last".into());
    let memory = prepared.activation_bytes.map_or_else(
        || {
            format!(
                "{} for weights; the rest depends on open dimensions",
                bytes(prepared.weights_bytes)
            )
        },
        |most| {
            format!(
                "about {} for weights and {} for a run",
                bytes(prepared.weights_bytes),
                bytes(most)
            )
        },
    );
    lines.push(format!("memory      {memory}"));
    let batches = prepared.not_batched.as_ref().map_or_else(
        || "requests that wait together run together, with the same answers as alone".to_owned(),
        |why| format!("none: {why}"),
    );
    lines.push(format!("batches     {batches}"));
}
