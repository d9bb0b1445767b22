// The numbers of one bar, above the candles: of the one under the crosshair, or of the newest.

import { byId, make, setData, setText } from "./dom.js";
import * as format from "./format.js";
import { qualityWords } from "./quality.js";

/** ``bar`` may be undefined: then there is nothing to say. ``vwap``: of the day so far, ``quality``: of its minutes. */
export function showLegend(bar, vwap, quality, market) {
  const legend = byId("legend");
  legend.hidden = !bar;
  if (!bar) return;
  const price = (value) => format.price(value, market);
  const entries = [
    ["O", price(bar.open)], ["H", price(bar.high)], ["L", price(bar.low)],
    ["C", price(bar.close)], ["Vol", format.short(bar.volume)], ["Avg", price(bar.ma_5min)],
    ["VWAP", price(vwap)], ["Data", qualityWords(quality)],
  ];
  while (legend.childElementCount < entries.length) legend.append(make("span", "", make("b"), make("span")));
  entries.forEach(([name, value], i) => {
    setText(legend.children[i].firstChild, name);
    setText(legend.children[i].lastChild, value);
  });
  setData(legend, "way", bar.close >= bar.open ? "up" : "down");
}
