{{/* The name of everything: the release's, and what it is. */}}
{{- define "tidegate.name" -}}
{{- if contains "tidegate" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-tidegate" (.Release.Name | trunc 31 | trimSuffix "-") }}
{{- end -}}
{{- end }}

{{- define "tidegate.selector" -}}
app.kubernetes.io/name: tidegate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tidegate.serverSecret" -}}
{{ .Values.listener.secret | default (printf "%s-server" (include "tidegate.name" .)) }}
{{- end }}

{{- define "tidegate.brokerSecret" -}}
{{ .Values.broker.secret | default (printf "%s-broker" (include "tidegate.name" .)) }}
{{- end }}

{{/* Whether a broker is dialled by TLS. */}}
{{- define "tidegate.brokerTls" -}}
{{- if contains "mqtts://" (include "tidegate.dialled" .) }}yes{{ end -}}
{{- end }}

{{/* Whether the secret of the leg to the brokers is mounted: its files are named, or it is. */}}
{{- define "tidegate.brokerFiles" -}}
{{- if .Values.broker.secret }}yes{{ else }}{{ include "tidegate.names" (list . "broker") }}{{ end -}}
{{- end }}

{{/* Whether the secret of the registry is mounted. */}}
{{- define "tidegate.registryFiles" -}}
{{- include "tidegate.names" (list . "registry") }}
{{- end }}

{{/* What restricted pods ask of each container. */}}
{{- define "tidegate.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end }}

{{/* A list of texts as TOML has it; JSON's texts are TOML's. */}}
{{- define "tidegate.list" -}}
[{{ range $i, $text := . }}{{ if $i }}, {{ end }}{{ toJson $text }}{{ end }}]
{{- end }}

{{/* tidegate.toml. */}}
{{- define "tidegate.config" -}}
{{- if .Values.config -}}
{{ .Values.config }}
{{- else -}}
# Made by the chart from its values.

[[listener]]
name = "devices"
bind = "0.0.0.0:8883"
mode = {{ toJson .Values.listener.mode }}
{{- with .Values.listener.proxyProtocolFrom }}
proxy_protocol_from = {{ include "tidegate.list" . }}
{{- end }}

[listener.tls]
certificate = "/etc/tidegate/server/tls.crt"
key = "/etc/tidegate/server/tls.key"
min_version = {{ toJson .Values.listener.minVersion }}
{{- if .Values.listener.ticketSecret }}
resumption = "tickets"
ticket_secret_file = "/etc/tidegate/tickets/secret"
{{- end }}
{{- range .Values.trust }}
{{- $group := .name }}

[[trust]]
name = {{ toJson .name }}
ca = [{{ range $i, $file := .ca }}{{ if $i }}, {{ end }}{{ printf "/etc/tidegate/trust/%s/%s" $group $file | toJson }}{{ end }}]
{{- with .crl }}
crl = [{{ range $i, $file := . }}{{ if $i }}, {{ end }}{{ printf "/etc/tidegate/trust/%s/%s" $group $file | toJson }}{{ end }}]
{{- end }}
device = {{ .device | default "subject.cn" | toJson }}
{{- with .pattern }}
pattern = {{ toJson . }}
{{- end }}
{{- end }}

[connect]
client_id = {{ toJson .Values.connect.clientId }}
username = {{ toJson .Values.connect.username }}
{{- if .Values.connect.passwordSecret }}
password_file = "/etc/tidegate/password/password"
{{- end }}

[broker]
{{- if eq .Values.shape "sidecar" }}
addresses = ["unix:///run/mosquitto/mosquitto.sock"]
{{- else }}
addresses = {{ include "tidegate.list" .Values.broker.addresses }}
balance = {{ toJson .Values.broker.balance }}
{{- if .Values.broker.allowPlaintext }}
allow_plaintext = true
{{- end }}
{{- if include "tidegate.brokerTls" . }}

[broker.tls]
ca = "/etc/tidegate/broker/ca.crt"
certificate = "/etc/tidegate/broker/tls.crt"
key = "/etc/tidegate/broker/tls.key"
{{- with .Values.broker.serverName }}
server_name = {{ toJson . }}
{{- end }}
{{- end }}

[broker.health]
probe = {{ toJson .Values.broker.probe }}
{{- end }}
{{- if .Values.registry.url }}

[registry]
url = {{ toJson .Values.registry.url }}
password_file = "/etc/tidegate/registry/password"
unknown = {{ toJson .Values.registry.unknown }}

[token]
key_file = "/etc/tidegate/registry/token-key"
{{- end }}

[limits]
connections = {{ int .Values.limits.connections }}
drain_timeout = "{{ int .Values.limits.drainTimeoutSeconds }}s"

[admin]
bind = "0.0.0.0:9883"

[log]
format = "json"
level = {{ toJson .Values.log.level }}
{{- end }}
{{- end }}

{{/* Where the gate's files are mounted: the gate's own pod and the test's alike. */}}
{{- define "tidegate.mounts" -}}
- { name: config, mountPath: /etc/tidegate/config, readOnly: true }
- { name: server, mountPath: /etc/tidegate/server, readOnly: true }
{{- range .Values.trust }}
- { name: {{ printf "trust-%s" .name | quote }}, mountPath: {{ printf "/etc/tidegate/trust/%s" .name | quote }}, readOnly: true }
{{- end }}
{{- if include "tidegate.brokerFiles" . }}
- { name: broker, mountPath: /etc/tidegate/broker, readOnly: true }
{{- end }}
{{- if .Values.listener.ticketSecret }}
- { name: tickets, mountPath: /etc/tidegate/tickets, readOnly: true }
{{- end }}
{{- if .Values.connect.passwordSecret }}
- { name: password, mountPath: /etc/tidegate/password, readOnly: true }
{{- end }}
{{- if include "tidegate.registryFiles" . }}
- { name: registry, mountPath: /etc/tidegate/registry, readOnly: true }
{{- end }}
{{- end }}

{{- define "tidegate.volumes" -}}
- name: config
  configMap:
    name: {{ include "tidegate.name" . }}
- name: server
  secret:
    secretName: {{ include "tidegate.serverSecret" . }}
    defaultMode: 0440
{{- range .Values.trust }}
- name: {{ printf "trust-%s" .name | quote }}
  configMap:
    name: {{ .configMap | quote }}
{{- end }}
{{- if include "tidegate.brokerFiles" . }}
- name: broker
  secret:
    secretName: {{ include "tidegate.brokerSecret" . }}
    defaultMode: 0440
{{- end }}
{{- if .Values.listener.ticketSecret }}
- name: tickets
  secret:
    secretName: {{ .Values.listener.ticketSecret | quote }}
    defaultMode: 0440
{{- end }}
{{- if .Values.connect.passwordSecret }}
- name: password
  secret:
    secretName: {{ .Values.connect.passwordSecret | quote }}
    defaultMode: 0440
{{- end }}
{{- if include "tidegate.registryFiles" . }}
- name: registry
  secret:
    secretName: {{ .Values.registry.secret | quote }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{- define "tidegate.env" -}}
{{- range $name, $value := . }}
- name: {{ $name | quote }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* Whom pods run as; Mosquitto's socket file is for its user and group alone, so beside it both are one. */}}
{{- define "tidegate.podSecurity" -}}
{{- $user := ternary 1883 65532 (eq .Values.shape "sidecar") -}}
runAsNonRoot: true
runAsUser: {{ $user }}
runAsGroup: {{ $user }}
fsGroup: {{ $user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tidegate.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
