{{/* The configuration without its comments: what the gate reads. */}}
{{- define "tidegate.plainConfig" -}}
{{ regexReplaceAll "(?m)^[ \\t]*#.*$" (include "tidegate.config" .) "" }}
{{- end }}

{{/* Whether file or environment name something below /etc/tidegate/FOLDER: (list . FOLDER). */}}
{{- define "tidegate.names" -}}
{{- $root := first . -}}
{{- $told := printf "%s %s" (include "tidegate.plainConfig" $root) (values $root.Values.env | join " ") -}}
{{- if contains (printf "/etc/tidegate/%s/" (last .)) $told }}yes{{ end -}}
{{- end }}

{{/* The brokers' addresses, except for socket files, with a space between them: those of the environment count over those of the file. */}}
{{- define "tidegate.dialled" -}}
{{- $told := ternary "" (join " " .Values.broker.addresses) (eq .Values.shape "sidecar") -}}
{{- if .Values.config -}}
{{- $told = include "tidegate.plainConfig" . -}}
{{- end -}}
{{- $told = .Values.env.TIDEGATE_BROKER__ADDRESSES | default $told -}}
{{- regexFindAll "mqtts?://[^\"'\\s,]+" $told -1 | join " " -}}
{{- end }}

{{/* Their ports, and those of broker.ports, with a space between them. */}}
{{- define "tidegate.brokerPorts" -}}
{{- $ports := list -}}
{{- range regexFindAll "[^ ]+" (include "tidegate.dialled" .) -1 -}}
{{- $default := ternary ":8883" ":1883" (hasPrefix "mqtts://" .) -}}
{{- $ports = append $ports (regexFind ":[0-9]+$" . | default $default | trimPrefix ":") -}}
{{- end -}}
{{- range .Values.broker.ports -}}
{{- $ports = append $ports (int . | toString) -}}
{{- end -}}
{{- $ports | uniq | join " " -}}
{{- end }}

{{/* The address of the registry's PostgreSQL; nothing where there is none. */}}
{{- define "tidegate.registryUrl" -}}
{{- $told := .Values.registry.url -}}
{{- if .Values.config -}}
{{- $told = include "tidegate.plainConfig" . -}}
{{- end -}}
{{- regexFind "postgres(ql)?://[^\"'\\s]+" (.Values.env.TIDEGATE_REGISTRY__URL | default $told) -}}
{{- end }}

{{- define "tidegate.registryPort" -}}
{{- with include "tidegate.registryUrl" . -}}
{{- $asked := regexFind "[?&]port=[0-9]+" . | replace "?port=" ":" | replace "&port=" ":" -}}
{{- $asked | default (regexFind ":[0-9]+$" (regexFind "://[^/?]+" .)) | default ":5432" | trimPrefix ":" -}}
{{- end -}}
{{- end }}

{{/* Whom a rule is for, by `namespace` and `podLabels` of broker or registry; without either nothing is said, which is everybody. */}}
{{- define "tidegate.peers" -}}
{{- $peer := dict -}}
{{- with .namespace -}}
{{- $_ := set $peer "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" .)) -}}
{{- end -}}
{{- with .podLabels -}}
{{- $_ := set $peer "podSelector" (dict "matchLabels" .) -}}
{{- end -}}
{{- if $peer }}{{ toYaml (list $peer) }}{{ end -}}
{{- end }}

{{/* Whether the brokers are in another namespace than the release. */}}
{{- define "tidegate.brokersElsewhere" -}}
{{- if not (has .Values.broker.namespace (list "" .Release.Namespace)) }}yes{{ end -}}
{{- end }}

{{/* Whether a policy of ours keeps everybody else away from the brokers. */}}
{{- define "tidegate.closesBroker" -}}
{{- $policy := .Values.networkPolicy -}}
{{- if and (eq .Values.shape "front") $policy.enabled $policy.closeBroker .Values.broker.podLabels (include "tidegate.brokerPorts" .) }}yes{{ end -}}
{{- end }}
