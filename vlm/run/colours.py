"""The colours of all figures: each on white, and its twin on black."""

DARK = {
    "#1f6f8b": "#4fb0d0",
    "#e0a458": "#e8b36e",
    "#7a5c8e": "#b394cb",
    "#5b8e5b": "#7fbf7f",
    "#b5524c": "#e5837d",
    "#8d99ae": "#9fb0cc",
}
COLOURS = tuple(DARK)
