// Charts of usage. A table below each chart has the same numbers.
import * as format from './format.js';
import { html, useEffect, useRef } from './html.js';
import uPlot from './vendor/uplot.js';

const darkScheme = matchMedia('(prefers-color-scheme: dark)');

const HOUR = 3600;
const DAY = 24 * HOUR;
const BUCKET_SECONDS = { hour: HOUR, day: DAY };
const TICK_SECONDS = [
  ...[1, 2, 3, 6, 12].map((hours) => hours * HOUR),
  ...[1, 2, 7, 14, 28, 56, 112, 224].map((days) => days * DAY),
];

/** The space that a label of the time axis needs, in pixels. */
const LABEL_PIXELS = { hour: 116, day: 72 };

/** A color of the style sheet, computed for the canvas. */
function computedColor(element, name) {
  const probe = document.createElement('i');
  probe.className = `tint ${name}`;
  element.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

const secondsOf = ({ start }) => new Date(start) / 1000;

/**
 * The times with a label: starts of buckets in UTC, far enough apart. uPlot's own ticks are at midnight in
 * the viewer's time zone, which is in the middle of a bucket.
 */
function axisTicks(series, interval, pixelsPerSecond) {
  const minSeconds = Math.max(BUCKET_SECONDS[interval], LABEL_PIXELS[interval] / pixelsPerSecond);
  const step = TICK_SECONDS.find((seconds) => seconds >= minSeconds) ?? TICK_SECONDS.at(-1);
  return series.map(secondsOf).filter((seconds) => seconds % step === 0);
}

/** Draws one field of the series as bars. */
function drawBars(element, { series, interval }, { field, tint, height, hasTimeAxis }) {
  const axis = {
    stroke: computedColor(element, 'quiet'),
    font: '12px system-ui, sans-serif',
    ticks: { show: false },
  };
  const timeAxis = {
    ...axis,
    show: hasTimeAxis,
    size: 26,
    space: LABEL_PIXELS[interval],
    grid: { show: false },
    splits: (plot, index, min, max, seconds, pixels) => axisTicks(series, interval, pixels / seconds),
    values: (plot, times) => times.map((seconds) => format.bucket(seconds * 1000, interval)),
  };
  const countAxis = {
    ...axis,
    size: 52,
    space: 36,
    grid: { stroke: computedColor(element, 'line'), width: 1 },
    values: (plot, values) => values.map(format.compact),
  };
  const bars = {
    paths: uPlot.paths.bars({ size: [0.72, 28], radius: 0.12 }),
    fill: computedColor(element, tint),
    width: 0,
    points: { show: false },
  };
  // Half a bucket on both sides makes room for the whole first and last bar.
  const halfBucket = BUCKET_SECONDS[interval] / 2;
  const showBucket = ({ cursor }) => {
    const isInside = cursor.left >= 0;
    showTip(element, isInside ? series[cursor.idx] : undefined, interval);
  };
  const options = {
    width: element.clientWidth,
    height,
    padding: [10, 14, hasTimeAxis ? 0 : 4, 0],
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { setScale: false }, sync: { key: 'usage' } },
    scales: {
      x: { range: (plot, first, last) => [first - halfBucket, last + halfBucket] },
      y: { range: (plot, bottom, top) => [0, Math.max(4, top * 1.08)] },
    },
    axes: [timeAxis, countAxis],
    series: [{}, bars],
    hooks: { setCursor: [showBucket] },
  };
  const values = series.map((bucket) => bucket[field]);
  return new uPlot(options, [series.map(secondsOf), values], element);
}

/** Shows the numbers of a bucket above the chart, or nothing. */
function showTip(element, bucket, interval) {
  const tip = element.closest('.chart').querySelector('.chart-tip');
  if (!bucket) {
    tip.textContent = '';
    return;
  }
  const label = format.bucket(bucket.start, interval);
  const requests = format.count(bucket.requests);
  const denied = format.count(bucket.denied);
  tip.textContent = `${label} (UTC): ${requests} requests, ${denied} denied`;
}

function Bars({ usage, ...options }) {
  const container = useRef();
  useEffect(() => {
    const element = container.current;
    let plot = drawBars(element, usage, options);
    const redraw = () => {
      plot.destroy();
      plot = drawBars(element, usage, options);
    };
    const resizing = new ResizeObserver(() => {
      const width = element.clientWidth;
      if (width !== plot.width) plot.setSize({ width, height: options.height });
    });
    resizing.observe(element);
    darkScheme.addEventListener('change', redraw);
    return () => {
      darkScheme.removeEventListener('change', redraw);
      resizing.disconnect();
      plot.destroy();
    };
  }, [usage]);
  return html`<div ref=${container} class="plot" style=${{ minHeight: `${options.height}px` }}></div>`;
}

/** Requests per bucket, and the denied ones below, on a scale of their own because they are far fewer. */
export function UsageChart({ usage, label }) {
  const { series, interval, totals } = usage;
  const hasDenials = totals.denied > 0;
  const unit = interval === 'day' ? 'Day' : 'Hour';
  const requests = format.count(totals.requests);
  const denied = format.count(totals.denied);
  const busyBuckets = series.filter((bucket) => bucket.requests > 0);
  const rows = busyBuckets.map(
    (bucket) => html`
      <tr>
        <td>${format.bucket(bucket.start, interval)}</td>
        <td class="num">${format.count(bucket.requests)}</td>
        <td class="num">${format.count(bucket.denied)}</td>
      </tr>`,
  );
  const denialBars = html`
    <p class="legend"><i class="tint denials"></i> Denied</p>
    <${Bars} usage=${usage} field="denied" tint="denials" height=${110} hasTimeAxis />`;
  return html`
    <figure class="chart">
      <p class="chart-tip"></p>
      <div role="img" aria-label=${`${label}: ${requests} requests, ${denied} of them denied`}>
        <p class="legend"><i class="tint requests"></i> Requests</p>
        <${Bars} usage=${usage} field="requests" tint="requests" height=${170} hasTimeAxis=${!hasDenials} />
        ${hasDenials && denialBars}
      </div>
      <figcaption class="quiet small-text">${unit}s are in UTC.</figcaption>
      <details>
        <summary>Show as table</summary>
        <div class="table-wrap" tabindex="0" role="region" aria-label=${label}>
          <table>
            <thead>
              <tr>
                <th scope="col">${unit} (UTC)</th>
                <th scope="col" class="num">Requests</th>
                <th scope="col" class="num">Denied</th>
              </tr>
            </thead>
            <tbody>${rows}</tbody>
          </table>
        </div>
      </details>
    </figure>`;
}

/** The organizations or keys with the most requests, as bars next to their names. */
export function Busiest({ groups, href, empty }) {
  if (groups.length === 0) return html`<p class="quiet">${empty}</p>`;
  const maxRequests = Math.max(...groups.map(({ totals }) => totals.requests));
  const items = groups.map(({ id, name, totals }) => {
    const title = html`<bdi>${name ?? 'Platform'}</bdi>`;
    const target = href(id);
    const width = `${(totals.requests / maxRequests) * 100}%`;
    return html`
      <li>
        <span class="busiest-name">${target ? html`<a href=${target}>${title}</a>` : title}</span>
        <span class="num">${format.count(totals.requests)}</span>
        <span class="bar" aria-hidden="true"><i style=${{ width }}></i></span>
        <span class="quiet small-text">${format.percent(totals.denied, totals.requests)} denied</span>
      </li>`;
  });
  return html`<ol class="busiest">${items}</ol>`;
}
