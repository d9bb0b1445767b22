// How charts look, and what is drawn in the candle chart: colours come from the style sheet, so that light and dark
// are said in one place.

/** Reads custom properties: palette()("--panel"). */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(name).trim();
}

/** Options of a chart in the page's colours of this moment. */
export function chartLook() {
  const color = palette();
  return {
    layout: {
      attributionLogo: false, // It would need an inline style; the credit is in the page's foot.
      background: { type: "solid", color: color("--panel") },
      textColor: color("--muted"),
      fontFamily: getComputedStyle(document.body).fontFamily,
      fontSize: 11,
      panes: { separatorColor: color("--line"), separatorHoverColor: color("--line"), enableResize: false },
    },
    grid: { vertLines: { color: color("--grid") }, horzLines: { color: color("--grid") } },
    rightPriceScale: { borderColor: color("--line") },
    timeScale: { borderColor: color("--line"), timeVisible: true, secondsVisible: false, rightOffset: 6 },
    crosshair: {
      mode: 0,
      vertLine: { color: color("--muted"), labelBackgroundColor: color("--accent-solid") },
      horzLine: { color: color("--muted"), labelBackgroundColor: color("--accent-solid") },
    },
    localization: { locale: "en-GB", dateFormat: "d MMM yyyy" },
  };
}

/** The candle chart in ``box`` and its series. */
export function makeCandleChart(box) {
  const library = window.LightweightCharts;
  const chart = library.createChart(box, { autoSize: true, ...chartLook() });
  const volume = chart.addSeries(library.HistogramSeries, {
    priceFormat: { type: "volume" }, priceScaleId: "", lastValueVisible: false, priceLineVisible: false,
  });
  volume.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0.02 } });
  const candles = chart.addSeries(library.CandlestickSeries, {});
  candles.priceScale().applyOptions({ scaleMargins: { top: 0.12, bottom: 0.22 } });
  const line = { priceLineVisible: false, lastValueVisible: false, crosshairMarkerRadius: 3 };
  const average = chart.addSeries(library.LineSeries, { ...line, lineWidth: 2 });
  const vwap = chart.addSeries(library.LineSeries, { ...line, lineWidth: 1, lineStyle: 2 });
  return { chart, volume, candles, average, vwap };
}

/** Colours of the candle chart's parts, in the scheme of this moment. */
export function candleColors() {
  const color = palette();
  const [up, down] = [color("--up-solid"), color("--down-solid")];
  return {
    up, down, accent: color("--accent-solid"), grey: color("--muted"), average: color("--average"), vwap: color("--violet"),
    upVolume: color("--up-wash"), downVolume: color("--down-wash"),
    candles: { upColor: up, downColor: down, wickUpColor: up, wickDownColor: down, borderVisible: false },
    sessions: { pre: color("--session-out"), post: color("--session-out"), closed: color("--session-closed") },
    ribbon: {
      gap: down, late: color("--average"), excluded: color("--violet"), backfilled: color("--accent-solid"),
      good: color("--up-pale"),
    },
  };
}
