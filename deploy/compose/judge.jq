# Judges what `docker compose config --format json` makes of a file ($name): no container is root, can write beside its volumes or gain
# rights; each that stays has a health check; no port is published but the devices' and Grafana's; a gate has the time to drain; and gate
# and broker have the descriptors for the 20 000 devices that the gate lets in.
#
#   docker compose -f NAME.yaml config --format json | jq -er --arg name NAME -f judge.jq

# "1m30s" in seconds.
def seconds: [scan("([0-9.]+)(h|m|s)") | (.[0] | tonumber) * {h: 3600, m: 60, s: 1}[.[1]]] | add // 0;

[
    (if (.services | length) == 0 then "has no services" else empty end),
    (.services | to_entries[] | .key as $service | .value | "\($service) \(
        (if .read_only then empty else "can write" end),
        (if .cap_drop == ["ALL"] then empty else "keeps capabilities" end),
        (if (.security_opt // []) | index("no-new-privileges:true") then empty else "can gain rights" end),
        (if (.user // "0") | test("^[1-9]") then empty else "is root" end),
        (if .privileged or .cap_add then "is given rights" else empty end),
        (if .restart == "no" or .healthcheck then empty else "has no health check" end),
        # limits.drain_timeout of 30 s, and the last steps
        (if $service != "gate" or (.stop_grace_period // "10s" | seconds) >= 35 then empty else "is cut while it drains" end),
        # two for each device at the gate, one at its broker, and some more
        ({gate: 40200, mosquitto: 20200, broker: 20200}[$service] as $least
            | if ((.ulimits.nofile // 0) | if type == "object" then .soft else . end) >= ($least // 0)
                then empty else "has too few descriptors" end),
        ((.ports // [])[] | "\($service) \(.host_ip // "*"):\(.published)"
            | select(. != "gate *:8883" and . != "grafana 127.0.0.1:3000") | "publishes \(.)")
    )")
]
| map("\($name).yaml: \(.)")
| if . == [] then "   \($name).yaml: good" else join("\n") + "\n" | halt_error(1) end
