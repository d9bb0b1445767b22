// The volume-weighted average price of the day so far, at each bar: from the bars' own VWAPs and volumes.

const DAY_S = 86_400;

export class DayVwap {
  constructor() {
    this.sums = []; // at each bar: {day, whole, money, volume} of its day so far
  }

  /** ``bars``: in order; sum anew from the place ``start`` on. ``fromTheFirst``: nothing older is kept. */
  sumUp(times, bars, start, fromTheFirst) {
    if (start === 0) this.sums = [];
    this.sums.length = Math.min(this.sums.length, start);
    for (let i = start; i < times.length; i += 1) {
      const bar = bars.get(times[i]);
      const day = Math.floor(times[i] / DAY_S); // of the market's own zone
      const before = this.sums[i - 1];
      const begun = before?.day === day ? before : { whole: i > 0 || fromTheFirst, money: 0, volume: 0 };
      const volume = bar.vwap == null ? 0 : bar.volume;
      const money = volume ? bar.vwap * volume : 0;
      this.sums[i] = { day, whole: begun.whole, money: begun.money + money, volume: begun.volume + volume };
    }
  }

  /** Null for a day whose beginning is not loaded, and before its first eligible trade. */
  at(i) {
    const sum = this.sums[i];
    return sum?.whole && sum.volume ? sum.money / sum.volume : null;
  }
}
