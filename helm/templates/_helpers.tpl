{{- define "llm-sidecar.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "llm-sidecar.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "llm-sidecar.labels" -}}
{{ include "llm-sidecar.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .Values.mode }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "llm-sidecar.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "llm-sidecar.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "llm-sidecar.adminSecret" -}}
{{- .Values.admin.existingSecret | default (printf "%s-admin" (include "llm-sidecar.name" .)) -}}
{{- end }}

{{- /* A map is written as YAML; a text (--set-file config=config.yaml) is taken as it is. */}}
{{- define "llm-sidecar.config" -}}
{{- if kindIs "string" .Values.config }}{{ .Values.config }}{{ else }}{{ toYaml .Values.config }}{{ end }}
{{- end }}

{{- /* The proxy's container: the same in both modes, but for where it listens and how it ends. */}}
{{- define "llm-sidecar.container" -}}
name: llm-sidecar
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, --config, /config/config.yaml]
{{- if eq .Values.mode "sidecar" }}
# A sidecar in the sense of Kubernetes: it starts before the application and ends after it.
restartPolicy: Always
{{- else if .Values.preStop }}
lifecycle:
  preStop:
    exec:
      command: [python, -c, "import time; time.sleep({{ .Values.preStop }})"]
{{- end }}
env:
  - name: LLM_SIDECAR__SERVER__HOST
    # Beside an application only the pod itself may call; a gateway is called from elsewhere.
    value: {{ eq .Values.mode "sidecar" | ternary "127.0.0.1" "0.0.0.0" | quote }}
  - {name: LLM_SIDECAR__SERVER__PORT, value: "8080"}
  - {name: LLM_SIDECAR__SERVER__DRAIN, value: {{ printf "%ds" (int .Values.drain) | quote }}}
  # The kubelet's probes come from outside of the pod. All but the probes and /metrics asks for the token.
  - {name: LLM_SIDECAR__ADMIN__HOST, value: "0.0.0.0"}
  - {name: LLM_SIDECAR__ADMIN__PORT, value: "8081"}
  - name: LLM_SIDECAR__ADMIN__TOKEN
    valueFrom:
      secretKeyRef:
        name: {{ include "llm-sidecar.adminSecret" . }}
        key: token
  - {name: LLM_SIDECAR__DATA, value: /data}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.envFromSecrets }}
envFrom:
  {{- range . }}
  - secretRef: {name: {{ . | quote }}}
  {{- end }}
{{- end }}
ports:
  - {name: calls, containerPort: 8080, protocol: TCP}
  - {name: admin, containerPort: 8081, protocol: TCP}
startupProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 1
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 1
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - {name: config, mountPath: /config, readOnly: true}
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
  {{- if .Values.secretFiles }}
  - {name: secrets, mountPath: /run/secrets, readOnly: true}
  {{- end }}
{{- end }}
