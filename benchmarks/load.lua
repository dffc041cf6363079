-- wrk's part: POSTs the documents of BENCH_BODIES, one a line, in turn, with BENCH_KEYS API keys in turn.
-- Every request is put together before the first is sent. Prints the figures as one line of JSON.
local requests, turn = {}, 0

function init()
  local bodies, keys = {}, tonumber(os.getenv("BENCH_KEYS"))
  for body in io.lines(os.getenv("BENCH_BODIES")) do bodies[#bodies + 1] = body end
  for i = 0, #bodies * keys - 1 do
    local headers = { ["Content-Type"] = "application/json", ["X-API-Key"] = "key-" .. i % keys }
    requests[i] = wrk.format("POST", nil, headers, bodies[i % #bodies + 1])
  end
end

function request()
  turn = (turn + 1) % (#requests + 1)
  return requests[turn]
end

function done(summary, latency)
  local e = summary.errors
  local figures = '{"requests":%d,"seconds":%f,"bytes":%d,"p50_ms":%f,"p99_ms":%f,"errors":%d}\n'
  io.write("\n", string.format(figures, summary.requests, summary.duration / 1e6, summary.bytes,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
