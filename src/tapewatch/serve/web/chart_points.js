// A bar's place among others, and its form for the chart library.

/** Where ``time`` is among ``times``, which are in order and hold it. */
export function placeOf(times, time) {
  let [low, high] = [0, times.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** As the chart library takes them. */
export const candle = (time, { open, high, low, close }) => ({ time, open, high, low, close });
export const point = (time, value) => (value == null ? { time } : { time, value });
