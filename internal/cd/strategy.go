package cd

import "time"

// Kind is a kind of strategy.
type Kind string

// The kinds of strategies.
const (
	Recreate  Kind = "recreate"   // the old stops, then the new starts: an outage, for what can not run twice
	Rolling   Kind = "rolling"    // one instance after the other
	BlueGreen Kind = "blue-green" // all of the new beside the old, then traffic moves
	Canary    Kind = "canary"     // traffic moves by steps, judged by metrics
)

// Strategy says how a release takes the place of what serves.
type Strategy struct {
	Kind      Kind        `json:"kind"`
	BlueGreen *Fleets     `json:"blue_green,omitempty"` // of Kind BlueGreen; nil takes its defaults
	Analysis  *Analysis   `json:"analysis,omitempty"`   // of Kind Canary
	Rolling   *RollingSet `json:"rolling,omitempty"`
}

// RollingSet is how rolling goes.
type RollingSet struct {
	Batch int `json:"batch"` // instances at a time; 0 is 1
}

// Fleets is blue-green as CodeDeploy has it; see reference "CodeDeploy ECS blue/green". Fields have the names of Terraform's
// aws_codedeploy_deployment_group in penstock.yaml.
type Fleets struct {
	// TerminationWait is how long the old fleet is kept after traffic has moved (termination_wait_time_in_minutes, at most
	// 2880), with one command back. KeepAlive keeps it until the next release (action KEEP_ALIVE).
	TerminationWait time.Duration `json:"termination_wait"`
	KeepAlive       bool          `json:"keep_alive,omitempty"`
	// ReadyStop waits for somebody when the new fleet is ready (action_on_timeout STOP_DEPLOYMENT), for ReadyWait, and stops
	// the release then. Else it goes on at once (CONTINUE_DEPLOYMENT).
	ReadyStop bool          `json:"ready_stop,omitempty"`
	ReadyWait time.Duration `json:"ready_wait,omitempty"`
	// TestHosts lead to the new fleet before traffic moves (test_traffic_route).
	TestHosts []string `json:"test_hosts,omitempty"`
	Traffic   Traffic  `json:"traffic"`
	// RollbackOnFailure and RollbackOnAlarm are auto_rollback_configuration's events; both true by default here.
	RollbackOnFailure bool `json:"rollback_on_failure"`
	RollbackOnAlarm   bool `json:"rollback_on_alarm"`
}

// Traffic is how traffic moves: ECSAllAtOnce, TimeBasedCanary or TimeBasedLinear.
type Traffic struct {
	Type     string        `json:"type"`    // all-at-once, canary, linear
	Percent  float64       `json:"percent"` // canary: of the first step; linear: of each step
	Interval time.Duration `json:"interval"`
}

// Analysis is a canary's analysis with the fields of Flagger's Canary spec. Exact behaves tick for tick like Flagger, as a
// manifest asks for; else the native mode mends its known traps (docs/canary.md).
type Analysis struct {
	Exact bool `json:"exact,omitempty"`

	Interval            time.Duration `json:"interval"`
	Threshold           int           `json:"threshold"`
	MaxWeight           int           `json:"max_weight,omitempty"`
	StepWeight          int           `json:"step_weight,omitempty"`
	StepWeights         []int         `json:"step_weights,omitempty"`
	StepWeightPromotion int           `json:"step_weight_promotion,omitempty"`
	Iterations          int           `json:"iterations,omitempty"`
	Mirror              bool          `json:"mirror,omitempty"`
	MirrorWeight        int           `json:"mirror_weight,omitempty"`
	Match               []Match       `json:"match,omitempty"` // of A/B tests: one of them leads to the new revision
	Metrics             []Metric      `json:"metrics,omitempty"`
	Webhooks            []Webhook     `json:"webhooks,omitempty"`
	// Affinity, if not nil, keeps each client on the side it came to.
	Affinity *Affinity `json:"affinity,omitempty"`

	ProgressDeadline      time.Duration `json:"progress_deadline,omitempty"`
	PrimaryReadyThreshold int           `json:"primary_ready_threshold,omitempty"` // percent
	CanaryReadyThreshold  int           `json:"canary_ready_threshold,omitempty"`  // percent
	SkipAnalysis          bool          `json:"skip_analysis,omitempty"`
	Suspend               bool          `json:"suspend,omitempty"`

	// Of the native mode alone.
	MinSample int     `json:"min_sample,omitempty"` // requests of the new revision before a check says more than inconclusive
	NoData    Verdict `json:"no_data,omitempty"`    // what a check without data means; default inconclusive
	// Inconclusive is how long it may stay so before a person is asked; 0 is for ever.
	InconclusiveWait time.Duration `json:"inconclusive_wait,omitempty"`
}

// Affinity is a session's cookie.
type Affinity struct {
	Cookie        string        `json:"cookie"`
	MaxAge        time.Duration `json:"max_age"`
	PrimaryCookie string        `json:"primary_cookie,omitempty"`
}

// Match is one rule of an A/B test: all of its parts hold. Keys are header names in lower case; a cookie is a header.
type Match struct {
	Headers map[string]StringMatch `json:"headers"`
}

// StringMatch is Istio's: one of its fields is set.
type StringMatch struct {
	Exact  string `json:"exact,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	Suffix string `json:"suffix,omitempty"`
	Regex  string `json:"regex,omitempty"` // RE2, of the whole value
}

// Metric is one check of an analysis.
type Metric struct {
	Name     string        `json:"name"` // request-success-rate and request-duration are built in
	Interval time.Duration `json:"interval"`
	Min      *float64      `json:"min,omitempty"` // thresholdRange
	Max      *float64      `json:"max,omitempty"`
	// Threshold is the older form of a limit; used if there is no range.
	Threshold float64 `json:"threshold,omitempty"`
	// Query is PromQL, with Flagger's template functions resolved when it is asked; empty for those built in.
	Query string `json:"query,omitempty"`
	// Server is the URL of the Prometheus that is asked; empty is the proxy's own metrics.
	Server    string            `json:"server,omitempty"`
	Variables map[string]string `json:"variables,omitempty"`
	// Template says that Query comes from a MetricTemplate: Flagger asks those after the others.
	Template bool `json:"template,omitempty"`
}

// Webhook is one of an analysis.
type Webhook struct {
	Name string `json:"name"`
	// Type is confirm-rollout, pre-rollout, rollout, confirm-traffic-increase, confirm-promotion, post-rollout, rollback or
	// event; empty is rollout.
	Type       string            `json:"type,omitempty"`
	URL        string            `json:"url"`
	Timeout    time.Duration     `json:"timeout"`
	Retries    int               `json:"retries,omitempty"`
	DisableTLS bool              `json:"disable_tls,omitempty"`
	Metadata   map[string]string `json:"metadata,omitempty"`
	MuteAlert  bool              `json:"mute_alert,omitempty"`
}

// Watch is the window after promotion. A limit of zero is none.
type Watch struct {
	For       time.Duration `json:"for,omitempty"`     // 0 watches nothing
	Errors    float64       `json:"errors,omitempty"`  // percent of requests answered 5xx
	Latency   time.Duration `json:"latency,omitempty"` // 99th percentile
	Restarts  int           `json:"restarts,omitempty"`
	MinSample int           `json:"min_sample,omitempty"` // requests before errors and latency count
	Interval  time.Duration `json:"interval,omitempty"`   // between two looks
}
