{{- define "tidegate.mosquitto" -}}
# The socket file is in a volume of this pod's two containers. Who comes by it was let in by the gate.
listener 0 /run/mosquitto/mosquitto.sock
allow_anonymous true
acl_file /mosquitto/config/acl
persistence true
persistence_location /mosquitto/data/
autosave_interval 60
log_dest stderr
{{- with .Values.mosquitto.extraConfig }}
{{ . }}
{{- end }}
{{- end }}

{{/* Mosquitto as a sidecar in Kubernetes' sense: it runs before the gate starts and until the gate has ended. */}}
{{- define "tidegate.mosquittoContainer" -}}
- name: mosquitto
  image: {{ .Values.mosquitto.image | quote }}
  restartPolicy: Always
  # Mosquitto takes the soft limit of descriptors as it is, often 1024: one for each device.
  command: ["/bin/sh", "-c", "ulimit -n $(ulimit -Hn); exec mosquitto -c /mosquitto/config/mosquitto.conf"]
  startupProbe:
    exec:
      command: [mosquitto_sub, --unix, /run/mosquitto/mosquitto.sock, -t, $SYS/broker/version, -C, "1", -W, "2"]
    periodSeconds: 1
    timeoutSeconds: 3
    failureThreshold: 60
  livenessProbe:
    exec:
      command: [mosquitto_sub, --unix, /run/mosquitto/mosquitto.sock, -t, $SYS/broker/version, -C, "1", -W, "5"]
    periodSeconds: 30
    timeoutSeconds: 6
    failureThreshold: 3
  resources:
    {{- toYaml .Values.mosquitto.resources | nindent 4 }}
  securityContext:
    {{- include "tidegate.restricted" . | nindent 4 }}
  volumeMounts:
    - { name: mosquitto, mountPath: /mosquitto/config, readOnly: true }
    - { name: data, mountPath: /mosquitto/data }
    - { name: socket, mountPath: /run/mosquitto }
{{- end }}
