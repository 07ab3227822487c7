// Charts. The figures also stand in a table, for those who read rather than look.
import * as format from './format.js';
import { html, useEffect, useRef } from './html.js';
import uPlot from './vendor/uplot.js';

const dark = matchMedia('(prefers-color-scheme: dark)');

/** A colour of the style sheet, as the canvas needs it. */
function colour(element, name) {
  const probe = document.createElement('i');
  probe.className = `tint ${name}`;
  element.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const HOUR = 3600;
const DAY = 24 * HOUR;
const BUCKET_SECONDS = { hour: HOUR, day: DAY };
const TICK_SECONDS = [
  ...[1, 2, 3, 6, 12].map((hours) => hours * HOUR),
  ...[1, 2, 7, 14, 28, 56, 112, 224].map((days) => days * DAY),
];

/**
 * Where the time axis has labels: at starts of buckets in UTC, far enough apart. uPlot's own ticks stand at midnight in
 * the viewer's time zone, which is in the middle of a bucket.
 */
function ticks(series, interval, minPixels, pixelsPerSecond) {
  const bucketSeconds = BUCKET_SECONDS[interval];
  const isUsable = (seconds) => seconds >= bucketSeconds && seconds * pixelsPerSecond >= minPixels;
  const step = TICK_SECONDS.find(isUsable) ?? TICK_SECONDS.at(-1);
  const starts = series.map(({ start }) => new Date(start) / 1000);
  return starts.filter((seconds) => seconds % step === 0);
}

/** One figure of a series as bars. */
function draw(element, { series, interval }, { field, tint, height, labelled }) {
  const axis = {
    stroke: colour(element, 'quiet'),
    font: '12px system-ui, sans-serif',
    ticks: { show: false },
  };
  const grid = { stroke: colour(element, 'line'), width: 1 };
  const minPixels = interval === 'hour' ? 116 : 72;
  const half = BUCKET_SECONDS[interval] / 2;
  const options = {
    width: element.clientWidth,
    height,
    padding: [10, 14, labelled ? 0 : 4, 0],
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { setScale: false }, sync: { key: 'usage' } },
    // Half a bucket on both sides, so that the first and the last bar are whole.
    scales: {
      x: { range: (_, first, last) => [first - half, last + half] },
      y: { range: (_, __, top) => [0, Math.max(4, top * 1.08)] },
    },
    axes: [
      {
        ...axis,
        show: labelled,
        size: 26,
        space: minPixels,
        grid: { show: false },
        splits: (_, __, ___, ____, seconds, pixels) => ticks(series, interval, minPixels, pixels / seconds),
        values: (_, times) => times.map((time) => format.bucket(time * 1000, interval)),
      },
      { ...axis, size: 52, space: 36, grid, values: (_, values) => values.map(format.compact) },
    ],
    series: [
      {},
      {
        paths: uPlot.paths.bars({ size: [0.72, 28], radius: 0.12 }),
        fill: colour(element, tint),
        width: 0,
        points: { show: false },
      },
    ],
    hooks: {
      setCursor: [({ cursor }) => tell(element, series[cursor.left >= 0 ? cursor.idx : -1], interval)],
    },
  };
  return new uPlot(
    options,
    [series.map(({ start }) => new Date(start) / 1000), series.map((one) => one[field])],
    element,
  );
}

function tell(element, one, interval) {
  const tip = element.closest('.chart').querySelector('.chart-tip');
  tip.textContent = one
    ? `${format.bucket(one.start, interval)} (UTC): ${format.count(one.requests)} requests, ${format.count(one.denied)} denied`
    : '';
}

function Bars({ usage, ...look }) {
  const place = useRef();
  useEffect(() => {
    const element = place.current;
    let plot = draw(element, usage, look);
    const again = () => {
      plot.destroy();
      plot = draw(element, usage, look);
    };
    const sized = new ResizeObserver(() => {
      if (element.clientWidth !== plot.width)
        plot.setSize({ width: element.clientWidth, height: look.height });
    });
    sized.observe(element);
    dark.addEventListener('change', again);
    return () => {
      dark.removeEventListener('change', again);
      sized.disconnect();
      plot.destroy();
    };
  }, [usage]);
  return html`<div ref=${place} class="plot" style=${{ minHeight: `${look.height}px` }}></div>`;
}

/** Requests of each bucket, and below them how many were denied: far fewer, so on a scale of their own. */
export function UsageChart({ usage, label }) {
  const { series, interval, totals } = usage;
  const said = `${label}: ${format.count(totals.requests)} requests, ${format.count(totals.denied)} of them denied`;
  return html`
    <figure class="chart">
      <p class="chart-tip"></p>
      <div role="img" aria-label=${said}>
        <p class="legend"><i class="tint requests"></i> Requests</p>
        <${Bars} usage=${usage} field="requests" tint="requests" height=${170} labelled=${totals.denied === 0} />
        ${
          totals.denied > 0 &&
          html`
          <p class="legend"><i class="tint denials"></i> Denied</p>
          <${Bars} usage=${usage} field="denied" tint="denials" height=${110} labelled />`
        }
      </div>
      <figcaption class="quiet small-text">${interval === 'day' ? 'Days' : 'Hours'} are in UTC.</figcaption>
      <details>
        <summary>As a table</summary>
        <div class="table-wrap" tabindex="0" role="region" aria-label=${label}>
          <table>
            <thead><tr><th scope="col">${interval === 'day' ? 'Day' : 'Hour'} (UTC)</th><th scope="col" class="num">Requests</th><th scope="col" class="num">Denied</th></tr></thead>
            <tbody>${series
              .filter(({ requests }) => requests > 0)
              .map(
                (one) => html`
              <tr><td>${format.bucket(one.start, interval)}</td><td class="num">${format.count(one.requests)}</td>
                <td class="num">${format.count(one.denied)}</td></tr>`,
              )}</tbody>
          </table>
        </div>
      </details>
    </figure>`;
}

/** The largest of a few, as bars beside their names. */
export function Busiest({ groups, href, none }) {
  if (groups.length === 0) return html`<p class="quiet">${none}</p>`;
  const most = Math.max(...groups.map(({ totals }) => totals.requests));
  return html`<ol class="busiest">${groups.map(
    ({ id, name, totals }) => html`
    <li>
      <span class="busiest-name">${id && href ? html`<a href=${href(id)}>${name}</a>` : (name ?? 'The platform itself')}</span>
      <span class="num">${format.count(totals.requests)}</span>
      <span class="bar" aria-hidden="true"><i style=${{ width: `${(totals.requests / most) * 100}%` }}></i></span>
      <span class="quiet small-text">${format.percent(totals.denied, totals.requests)} denied</span>
    </li>`,
  )}</ol>`;
}
