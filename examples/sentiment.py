"""The demo from Python: fine-tune a super-network, search it for this computer, export the sub-network chosen.

    python examples/sentiment.py MODEL reviews.csv OUT [--steps 400] [--budget 60] [--speedup 1.7]

MODEL is a folder or hub name of a text encoder; the CSV has the columns text and label (0 negative, 1 positive).
"""

import argparse
from pathlib import Path

import nas
import search_spaces
from hardware import measure_latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--budget", type=int, default=60)
    parser.add_argument("--speedup", type=float, default=1.7)
    args = parser.parse_args()

    # A pre-trained network, its data, and the sub-networks that its structure allows.
    table = nas.read_table(nas.Source(args.data))
    module, preprocessor = nas.load_pretrained(args.model, table.classes, table.kind)
    data = nas.prepare_data(table, preprocessor, seed=0)
    supernet = search_spaces.Supernet(module, search_spaces.space(module, drop_order=search_spaces.spread))
    print(f"{supernet.space.size():,} sub-networks, {len(data.train):,} training rows")

    # One fine-tuning for all of them, the most important units first.
    nas.order_by_importance(supernet, data.train)
    config = nas.InstaTuneConfig(steps=args.steps, freeze_embeddings=True)
    history = nas.instatune(supernet, data.train, config, checkpoint=args.out / "checkpoint")
    print(f"loss {history.steps[-1].loss:.3f} after {len(history.steps)} steps")

    # Measure a few on validation rows and on this computer, predict the rest; the journal survives a kill.
    example = nas.example_inputs(module, table.kind, preprocessor)
    study = nas.search(
        supernet,
        supernet.space,
        data.validation,
        ["accuracy", "latency_ms"],
        budget=args.budget,
        seed=0,
        storage=args.out / "study.journal",
        example_inputs=example,
    )
    full = next(m for m in study.measurements if m.candidate == supernet.space.largest())
    chosen = study.select(max_latency_ms=full.values["latency_ms"] / args.speedup)

    # The test rows, once; both networks interleaved.
    networks = [supernet.model.eval(), supernet.extract(chosen.candidate)]
    right = [nas.predict(network, data.test).argmax(axis=1) == data.test.labels for network in networks]
    difference = nas.paired_difference(right[1], right[0])
    latencies = measure_latency(networks, {name: value[:1] for name, value in example.items()})
    for name, correct, latency in zip(("full", "chosen"), right, latencies, strict=True):
        print(f"{name}: test accuracy {correct.mean():.3f}, {latency.median_ms:.1f} ms")
    print(f"difference {difference.points:+.1f} points [{difference.low:+.1f}, {difference.high:+.1f}]")

    # An ordinary network that loads without this project.
    print("exported to", nas.export(networks[1], args.out / "export", example, preprocessor=preprocessor))


if __name__ == "__main__":
    main()
