"""What a simulation of scaling prints: markdown tables, and what was measured and what assumed."""

from typing import Any

from skysom.cluster import costs


def scaling_end(points: list[Any], efficiency: float = 0.5) -> Any:
    """The largest number of nodes up to which each works at ``efficiency`` of a single one, or more."""
    one = points[0].images_s / points[0].nodes
    kept = points[0]
    for point in points:
        if point.images_s / point.nodes < efficiency * one:
            break
        kept = point
    return kept


def after(points: list[Any], end: Any) -> str:
    """What limits the first number of nodes beyond ``end``."""
    later = [point for point in points if point.nodes > end.nodes]
    return later[0].limit if later else f"(at {end.nodes}: {end.limit})"


def tables(mapped: dict[str, list[Any]], trained: dict[tuple, list[Any]], images: int) -> str:
    """Markdown tables of both."""
    nodes = [point.nodes for point in next(iter(mapped.values()))]
    head = "| {} | " + " | ".join(f"{n}" for n in nodes) + " | efficient up to | then limited by |"
    rule = "|---|" + "---:|" * len(nodes) + "---:|---|"
    lines = [head.format("mapping 40 million images: minutes on nodes"), rule]
    for name, points in mapped.items():
        end = scaling_end(points)
        cells = " | ".join(f"{images / point.images_s / 60:.3g}" for point in points)
        lines.append(f"| {name} | {cells} | {end.nodes} | {after(points, end)} |")
    lines += ["", head.format("training, images a second on nodes"), rule]
    for (kind, batch, by_node), points in trained.items():
        if by_node:
            continue
        end = scaling_end(points)
        cells = " | ".join(f"{point.images_s:,.0f}" for point in points)
        lines.append(f"| {kind.upper()} nodes, batches of {batch:,} | {cells} | {end.nodes} | {after(points, end)} |")
    return "\n".join(lines)


def said(rates: dict[str, Any], assumed: Any) -> str:
    """What was measured and what is assumed, in one line each."""
    machine, ray = rates["machine"], rates["ray"]
    ms = {name: f"{value * 1e3:.2f} ms" for name, value in (rates["pass"] | ray).items()}
    return (
        f"measured {machine['date']} on one core of {machine['cpu']} ({machine['cores']} cores): search "
        f"{ms['search_s']} an image, decode {ms['decode_s']}, encode a mapping {ms['encode_mapping_s']}; ledger "
        f"{ms['record_s']} a shard; sums of {ray['sums_bytes'] / 1e6:.0f} MB put {ms['sums_put_s']}, added "
        f"{ms['sums_add_s']}\n"
        f"ASSUMED: GPU {costs.GPU_OPERATIONS_PER_S / 1e12:.0f} TFLOP/s and {costs.GPU_BYTES_S / 1e12:.0f} TB/s (no GPU "
        f"measured), file system {assumed.file_system_bytes_s / 1e9:.0f} GB/s, network "
        f"{assumed.network_bytes_s * 8 / 1e9:.0f} Gb/s a node, object store {assumed.stream_bytes_s / 1e6:.0f} MB/s a "
        f"stream and {assumed.put_s * 1e3:.0f} ms a PUT, task times scatter by {assumed.scatter:.0%}"
    )
