package monitor

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"mailnode/storage/slot"
)

// Result is how a delivery ended, for its recipient.
type Result string

// The results of a delivery.
const (
	Delivered Result = "delivered"
	Deferred  Result = "deferred" // 4xx: the MTA tries again
	Rejected  Result = "rejected" // 5xx
)

// SlotState is a copy on this node, as Sources reports it.
type SlotState struct {
	Slot   slot.ID
	Role   string  // "master" or "replica"
	State  string  // "serving", "waiting", "following", "building", "failed", …
	LagSec float64 // of the best replica of a master, of this copy otherwise; on the slot clock
	// LagUnknown leaves the lag out: no replica of a master is connected, or a
	// replica does not hear its master.
	LagUnknown bool
}

// Sources are asked at each scrape; a nil one leaves its metrics out. They must
// not block.
type Sources struct {
	Slots      func() []SlotState
	RaftState  func() string // "Leader", "Follower", "Candidate", "Shutdown"
	Passwords  func() (hashes uint64, waiting int)
	Conditions *Conditions
}

// Metrics counts what a node does. No label names a user: what one person does
// is nobody's graph, and labels must stay few. Safe for concurrent use.
type Metrics struct {
	registry   *prometheus.Registry
	deliveries *prometheus.CounterVec
	delivery   prometheus.Histogram
	fsync      prometheus.Histogram
	acks       prometheus.Histogram
	closures   prometheus.Histogram
	streamEnds *prometheus.CounterVec
	commands   *prometheus.CounterVec
	logins     *prometheus.CounterVec
	open       *prometheus.GaugeVec
	refused    *prometheus.CounterVec
}

// NewMetrics returns the metrics of a node, with the Go runtime's and the process's.
func NewMetrics(sources Sources, version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailnode_deliveries_total",
			Help: "LMTP deliveries by result, one per recipient."}, []string{"result"}),
		delivery: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailnode_delivery_seconds",
			Help: "From the end of a message to the answer, one per transaction.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailnode_fsync_seconds",
			Help: "Group commits: one fdatasync each.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15)}),
		acks: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailnode_ack_wait_seconds",
			Help: "From durable on the master to acknowledged: how long changes waited for a replica.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		closures: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailnode_closure_seconds",
			Help: "How long each change kept the others of its slot from being run; 0.05 s is too long.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 12)}),
		streamEnds: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailnode_replica_stream_ends_total",
			Help: "Streams of this node's replicas from their masters that broke, by slot; the log says why."}, []string{"slot"}),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailnode_imap_commands_total",
			Help: "IMAP commands by name and final response."}, []string{"command", "response"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailnode_imap_logins_total",
			Help: "IMAP logins by result."}, []string{"result"}),
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mailnode_connections",
			Help: "Open connections by protocol; of IMAP those passed on are counted at both nodes."}, []string{"protocol"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mailnode_connections_refused_total",
			Help: "Connections over a limit, or of an address that may not connect, by protocol."}, []string{"protocol", "reason"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mailnode_build_info", Help: "1; the label is the release.",
		ConstLabels: prometheus.Labels{"version": version}})
	build.Set(1)
	for _, r := range []Result{Delivered, Deferred, Rejected} {
		m.deliveries.WithLabelValues(string(r)) // a counter that is there from the start can be alerted on
	}
	for _, ok := range []bool{true, false} {
		m.logins.WithLabelValues(loginResult(ok))
	}
	for _, protocol := range []string{IMAP, LMTP} {
		m.open.WithLabelValues(protocol)
	}
	m.registry.MustRegister(m.deliveries, m.delivery, m.fsync, m.acks, m.closures, m.streamEnds, m.commands, m.logins, m.open, m.refused, build, &scraper{sources: sources},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Delivery counts the answer for one recipient.
func (m *Metrics) Delivery(r Result) { m.deliveries.WithLabelValues(string(r)).Inc() }

// DeliveryTook notes how long one transaction took.
func (m *Metrics) DeliveryTook(d time.Duration) { m.delivery.Observe(d.Seconds()) }

// FsyncTook notes how long one group commit's fdatasync took.
func (m *Metrics) FsyncTook(d time.Duration) { m.fsync.Observe(d.Seconds()) }

// AckWaited notes how long a change that was durable here waited to be
// acknowledged (law 1).
func (m *Metrics) AckWaited(d time.Duration) { m.acks.Observe(d.Seconds()) }

// ClosureTook notes how long a change kept the others of its slot from being run.
func (m *Metrics) ClosureTook(d time.Duration) { m.closures.Observe(d.Seconds()) }

// StreamEnded counts the end of a replica's stream from its master.
func (m *Metrics) StreamEnded(s slot.ID) { m.streamEnds.WithLabelValues(s.String()).Inc() }

// Command counts an IMAP command. name must come from a closed list, not from
// the wire: labels are for ever.
func (m *Metrics) Command(name, response string) { m.commands.WithLabelValues(name, response).Inc() }

// Login counts an IMAP login.
func (m *Metrics) Login(ok bool) { m.logins.WithLabelValues(loginResult(ok)).Inc() }

// The protocols of connections.
const (
	IMAP = "imap"
	LMTP = "lmtp"
)

// Connection counts one that is opened, +1, or closed, -1.
func (m *Metrics) Connection(protocol string, delta int) {
	m.open.WithLabelValues(protocol).Add(float64(delta))
}

// Refused counts a connection that was not let in. reason must come from a closed list.
func (m *Metrics) Refused(protocol, reason string) { m.refused.WithLabelValues(protocol, reason).Inc() }

func loginResult(ok bool) string {
	if ok {
		return "ok"
	}
	return "refused"
}

// scraper asks Sources at each scrape, so that what is gone leaves no stale line.
type scraper struct{ sources Sources }

var _ prometheus.Collector = (*scraper)(nil)

func lagDesc() *prometheus.Desc {
	return prometheus.NewDesc("mailnode_replica_lag_seconds", "Age of the oldest event that is not yet durable on a replica, by slot; left out while nobody knows it.", []string{"slot", "role"}, nil)
}

func slotsDesc() *prometheus.Desc {
	return prometheus.NewDesc("mailnode_slots", "Copies on this node by role and state.", []string{"role", "state"}, nil)
}

func raftDesc() *prometheus.Desc {
	return prometheus.NewDesc("mailnode_raft_state", "1 for the state that Raft is in on this node.", []string{"state"}, nil)
}

func hashesDesc() *prometheus.Desc {
	return prometheus.NewDesc("mailnode_password_hashes_total", "Passwords that were hashed; remembered logins are not.", nil, nil)
}

func waitingDesc() *prometheus.Desc {
	return prometheus.NewDesc("mailnode_password_hashes_waiting", "Logins that wait for their turn at hashing.", nil, nil)
}

func conditionsDesc() *prometheus.Desc {
	return prometheus.NewDesc("mailnode_condition", "1 for each health condition that holds (docs/CONDITIONS.md).", []string{"name", "severity", "about"}, nil)
}

// Describe is for prometheus.Collector.
func (s *scraper) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{lagDesc(), slotsDesc(), raftDesc(), hashesDesc(), waitingDesc(), conditionsDesc()} {
		out <- d
	}
}

// Collect is for prometheus.Collector.
func (s *scraper) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if s.sources.Slots != nil {
		type group struct{ role, state string }
		groups := make(map[group]int)
		for _, st := range s.sources.Slots() {
			groups[group{st.Role, st.State}]++
			if !st.LagUnknown {
				gauge(lagDesc(), st.LagSec, st.Slot.String(), st.Role)
			}
		}
		for g, n := range groups {
			gauge(slotsDesc(), float64(n), g.role, g.state)
		}
	}
	if s.sources.RaftState != nil {
		gauge(raftDesc(), 1, s.sources.RaftState())
	}
	if s.sources.Passwords != nil {
		hashes, waiting := s.sources.Passwords()
		out <- prometheus.MustNewConstMetric(hashesDesc(), prometheus.CounterValue, float64(hashes))
		gauge(waitingDesc(), float64(waiting))
	}
	if s.sources.Conditions != nil {
		for _, c := range s.sources.Conditions.List() {
			gauge(conditionsDesc(), 1, string(c.Name), string(c.Severity), c.About)
		}
	}
}
