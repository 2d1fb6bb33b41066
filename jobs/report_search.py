"""The section of the report about the search: by which method sources were mapped, and what its checks found."""

from html import escape
from typing import Any

from skysom.jobs.map_method import SEARCH
from skysom.jobs.report_data import MappingSummary
from skysom.jobs.report_words import Section, number


def search_section(mapping: MappingSummary) -> Section | None:
    """How the mapping was searched; None where the mapping does not say (an imported one)."""
    attrs = mapping.attrs
    words = {"certified": _certified, "polar": _polar, "exact": _exact}.get(str(attrs.get("method")))
    return None if words is None else Section("search", "The search", words(attrs))


def _exact(attrs: dict[str, Any]) -> str:
    reason = f", because {escape(str(attrs['method_reason']))}" if attrs.get("method_reason") else ""
    return f"<p>Every source was compared with every neuron exactly{reason}.</p>"


def _polar(attrs: dict[str, Any]) -> str:
    return (
        "<p>Sources were compared with neurons on rings around the centre (polar search): angles are without the "
        "preference for quarter turns that interpolated images have, and distances are not those of the exact "
        "search.</p>"
    )


def _certified(attrs: dict[str, Any]) -> str:
    calibration, found = attrs["calibration"], attrs.get(SEARCH)
    rows = [
        ("margin, as a share of the norm of a source times that of a neuron", f"{calibration['margin']:.3g}"),
        ("images of the calibration, searched exactly", number(calibration["images"])),
        ("largest share that one of them needed", f"{calibration['needed']:.3g}"),
        ("sources missed by the calibration's limit, at most (95 % confidence)", _percent(calibration["miss_limit"])),
    ]
    if found is not None:
        rows += [
            ("sources searched exactly as well, to check", number(found["checked"])),
            ("of these with another best match", number(found["missed"])),
            ("sources missed by the checks' limit, at most (95 % confidence)", _percent(found["miss_limit"])),
            ("shards searched exactly because a check failed", number(found["fallback_shards"])),
            ("sources left to the exact search, with too many candidates or none", number(found["fallback_images"])),
            ("candidates a source", f"{found['candidates'] / max(found['mapped'], 1):.3g}"),
            ("deepest best match, as a share of the margin", f"{found['depth']:.2f}"),
        ]
    table = "".join(f'<tr><td>{name}</td><td class="number">{value}</td></tr>' for name, value in rows)
    return (
        "<p>Sources were mapped by the certified search: neurons are ranked by approximate distances, and all that "
        "come within a margin of the best are decided by exact ones. Best-matching neurons, their distances and "
        f"their angles are those of the exact search: not proven of every source, but {_verdict(found)}. Distances to "
        "other neurons are approximate where the array <code>exact</code> says so; "
        "<code>skysom map --method exact</code> under another <code>--som-name</code> makes them all exact.</p>"
        f'<div class="scroll"><table>{table}</table></div>'
    )


def _verdict(found: dict[str, Any] | None) -> str:
    """What the checks say, in words."""
    if found is None:
        return "with the mapping unfinished, as often as the calibration says"
    if not found["checked"]:
        return "as often as the calibration says; none was checked (map.check_share)"
    checked, missed, shards = found["checked"], found["missed"], found["fallback_shards"]
    text = f"of {number(checked)} chosen at random and searched exactly as well, {number(missed) if missed else 'none'}"
    text += " differed, so with 95 % confidence at most " + _percent(found["miss_limit"]) + " of the sources do"
    if missed:
        text += f"; the {number(shards)} {'shard' if shards == 1 else 'shards'} of those were searched exactly"
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
