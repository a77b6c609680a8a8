{{/* Values that contradict each other, or cannot work: each is told with the way out. */}}
{{- define "tidegate.judge" -}}
{{- $front := eq .Values.shape "front" -}}
{{- if and $front (not .Values.broker.addresses) (not .Values.config) (not .Values.env.TIDEGATE_BROKER__ADDRESSES) -}}
{{- fail "broker.addresses: name the brokers, such as [\"mqtts://emqx-headless.mqtt.svc.cluster.local:8883\"], or set shape to sidecar" -}}
{{- end -}}
{{- range $folder, $key := dict "tickets" "listener.ticketSecret" "password" "connect.passwordSecret" -}}
{{- $section := index $.Values (splitList "." $key | first) -}}
{{- if and (include "tidegate.names" (list $ $folder)) (not (index $section (splitList "." $key | last))) -}}
{{- fail (printf "%s: the configuration names files in /etc/tidegate/%s; name the secret that they are in" $key $folder) -}}
{{- end -}}
{{- end -}}
{{- if and (include "tidegate.brokersElsewhere" .) .Values.certManager.enabled .Values.certManager.brokerDnsNames (ne (.Values.certManager.brokerIssuerRef.kind | default "") "ClusterIssuer") -}}
{{- fail (printf "certManager.brokerDnsNames: an issuer of this release makes no secret in the namespace %s of the brokers; set certManager.brokerIssuerRef to a ClusterIssuer that issues to gates and brokers alone, or leave brokerDnsNames out" .Values.broker.namespace) -}}
{{- end -}}
{{- if .Values.networkPolicy.enabled -}}
{{- range regexFindAll "[^ ]+" (include "tidegate.dialled" .) -1 -}}
{{- include "tidegate.judgeNamespace" (list $ "broker" .) -}}
{{- end -}}
{{- with include "tidegate.registryUrl" . -}}
{{- include "tidegate.judgeNamespace" (list $ "registry" (regexFind "@[^/?]+" . | trimPrefix "@")) -}}
{{- end -}}
{{- end -}}
{{- include "tidegate.judgeDrain" . -}}
{{- include "tidegate.judgeMemory" . -}}
{{- if $front -}}
{{- include "tidegate.judgeScale" . -}}
{{- end -}}
{{- end }}

{{/* An address that says which namespace it is in, and a policy that looks for it in another: (list . SECTION ADDRESS). */}}
{{- define "tidegate.judgeNamespace" -}}
{{- $root := first . -}}
{{- $section := index . 1 -}}
{{- $values := index $root.Values $section -}}
{{- $where := regexFind "[.][^.:/]+[.]svc([.:]|$)" (last .) | trimPrefix "." | splitList "." | first -}}
{{- $looked := $values.namespace | default $root.Release.Namespace -}}
{{- if and $where (or $values.namespace $values.podLabels) (ne $where $looked) -}}
{{- fail (printf "%s.namespace: %s is in the namespace %s, and the network policy looks for it in %s; set %s.namespace to %s, or leave namespace and podLabels out" $section (last .) $where $looked $section $where) -}}
{{- end -}}
{{- end }}

{{/* The pod's grace is made of limits.drainTimeoutSeconds, so nobody else may say it otherwise. */}}
{{- define "tidegate.judgeDrain" -}}
{{- $said := regexFind "\\bdrain_timeout[ \\t]*=[^#,}\\n]*" (include "tidegate.plainConfig" .) | splitList "=" | last | trim | trimAll "\"'" -}}
{{- $said = .Values.env.TIDEGATE_LIMITS__DRAIN_TIMEOUT | default $said -}}
{{- $expected := printf "%ds" (int .Values.limits.drainTimeoutSeconds) -}}
{{- if and $said (ne $said $expected) -}}
{{- fail (printf "limits.drainTimeoutSeconds: the pod's time to end is made of it; the configuration says drain_timeout = %s, so write it as seconds there, and the same number here" $said) -}}
{{- end -}}
{{- end }}

{{/* The sum of docs/kubernetes.md. A configuration of your own that does not say limits.connections has the gate's default. */}}
{{- define "tidegate.judgeMemory" -}}
{{- $said := regexFind "\\bconnections[ \\t]*=[ \\t]*[0-9_]+" (include "tidegate.plainConfig" .) | splitList "=" | last | trim | default "100000" -}}
{{- $connections := .Values.env.TIDEGATE_LIMITS__CONNECTIONS | default $said | replace "_" "" | int -}}
{{- $registry := ternary 64 0 (or (include "tidegate.registryUrl" .) (include "tidegate.registryFiles" .) | empty | not) -}}
{{- $needed := add 32 64 $registry (div (mul $connections 26) 1024) -}}
{{- with (.Values.resources | default dict).limits -}}
{{- with .memory -}}
{{- $given := include "tidegate.mebibytes" . | int -}}
{{- if lt $given (int $needed) -}}
{{- fail (printf "resources.limits.memory: %v does not hold limits.connections = %d, which take %dMi (docs/kubernetes.md, Sizes); give more, or take fewer connections" . $connections $needed) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A quantity of Kubernetes in MiB, rounded down. */}}
{{- define "tidegate.mebibytes" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $bytes := dict "" 1.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- if not (hasKey $bytes $unit) -}}
{{- fail (printf "resources.limits.memory: %s is not understood; write it as 704Mi or 2Gi" $text) -}}
{{- end -}}
{{- divf (mulf (trimSuffix $unit $text | float64) (get $bytes $unit)) 1048576.0 | floor -}}
{{- end }}

{{- define "tidegate.judgeScale" -}}
{{- $scale := .Values.autoscaling -}}
{{- if $scale.enabled -}}
{{- if gt (int $scale.minReplicas) (int $scale.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas: %d are more than maxReplicas, %d" (int $scale.minReplicas) (int $scale.maxReplicas)) -}}
{{- end -}}
{{- $resources := .Values.resources | default dict -}}
{{- if not (or (dig "requests" "cpu" "" $resources) (dig "limits" "cpu" "" $resources)) -}}
{{- fail "resources.requests.cpu: the autoscaler counts by it; set it, or autoscaling.enabled to false" -}}
{{- end -}}
{{- end -}}
{{- end }}
