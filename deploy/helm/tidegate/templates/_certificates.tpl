{{/* What all certificates that are renewed have alike. */}}
{{- define "tidegate.leaf" -}}
duration: 2160h
renewBefore: 720h
privateKey:
  algorithm: ECDSA
  size: 256
  rotationPolicy: Always
usages:
  - digital signature
  - {{ . }}
{{- end }}

{{/* A certificate that signs itself, for ten years, and an issuer that signs by it. */}}
{{- define "tidegate.ca" -}}
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  name: {{ .ca }}-self
  labels:
    {{- include "tidegate.labels" .root | nindent 4 }}
spec:
  selfSigned: {}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ .ca }}
  labels:
    {{- include "tidegate.labels" .root | nindent 4 }}
spec:
  isCA: true
  commonName: {{ .ca }}
  secretName: {{ .ca }}
  duration: 87600h
  privateKey:
    algorithm: ECDSA
    size: 256
  issuerRef:
    kind: Issuer
    name: {{ .ca }}-self
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  name: {{ .ca }}
  labels:
    {{- include "tidegate.labels" .root | nindent 4 }}
spec:
  ca:
    secretName: {{ .ca }}
{{- end }}
