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
