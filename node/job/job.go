// Package job is the registry of a node's long work: audit, scrub, compaction,
// reindex, resync (law 12). Whoever starts a job hands in a function; the
// registry runs it, a bounded number of each kind at once, whether or not who
// asked for it is still there, keeps its progress and its findings, and keeps
// the result when it is over.
//
//	jobs.Start(job.Spec{Kind: job.Audit, Slot: "s007", What: "compare with n2", RateBytesPerSec: 50 << 20},
//		func(ctx context.Context, p *job.Progress) error {
//			p.Total(packBytes, records)
//			for … {
//				if err := p.Spend(ctx, n); err != nil { // waits for the rate; ends when the job is stopped
//					return err
//				}
//				p.Items(1)
//				p.Finding("u7@example.test INBOX uid 18630: body missing")
//			}
//		})
//
// The registry forgets everything at a restart. A job that must survive one is
// started again by whoever knows what is left to be done; Progress.Resumed tells
// how much of it was done before.
package job

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mailnode/storage"
)

// Kinds of long work. The list is open: a kind is only a name with a bound.
const (
	Audit   = "audit"
	Scrub   = "scrub"
	Compact = "compact"
	Reindex = "reindex"
	Resync  = "resync"
	Drop    = "drop"
)

// Bounds of the registry.
const (
	keptMax      = 100    // finished jobs whose results can still be read
	queuedMax    = 10_000 // jobs that wait
	findingsMax  = 10_000 // lines kept per job, the newest
	findingBytes = 1024   // of one line; what is longer is cut
	answerMax    = 1000   // findings in one Detail
)

// State is where a job stands.
type State string

// The states of a job. The last three are for ever.
const (
	Queued  State = "queued"
	Running State = "running"
	Done    State = "done"
	Failed  State = "failed"
	Stopped State = "stopped" // by a person, or with the node
)

// Over says that a job has ended.
func (s State) Over() bool { return s == Done || s == Failed || s == Stopped }

// Spec says what a job is.
type Spec struct {
	Kind string
	Slot string // "s007", "" when it concerns the node
	What string // in an operator's words, such as "packs and index"
	By   string // who asked, "" when the node itself did
	// RateBytesPerSec bounds Progress.Spend; 0: no bound.
	RateBytesPerSec int64
	// Alone makes Start give the queued or running job of the same kind, slot
	// and what instead of a second one: damage that is found a hundred times
	// starts one reindex.
	Alone bool
}

// Run does the work. It returns soon after ctx has ended. Its error is the job's.
type Run func(ctx context.Context, p *Progress) error

// Options make a Registry.
type Options struct {
	Clock  storage.Clock
	Logger *slog.Logger
	// RunningMax is how many jobs of a kind run at once; a kind that is not
	// listed: one.
	RunningMax map[string]int
}

// Registry holds a node's jobs.
type Registry struct {
	o    Options
	ends context.CancelFunc
	ctx  context.Context
	wg   sync.WaitGroup

	mu      sync.Mutex // guards all below, and what a Job says it guards
	last    int        // number of the newest job
	jobs    []*Job     // oldest first
	running map[string]int
	closed  bool
}

// New returns an empty registry.
func New(o Options) *Registry {
	r := &Registry{o: o, running: map[string]int{}}
	r.ctx, r.ends = context.WithCancel(context.Background())
	return r
}

// Job is one piece of long work.
type Job struct {
	r      *Registry
	id     string
	spec   Spec
	run    Run
	cancel context.CancelFunc // set when it runs
	over   chan struct{}      // closed when it has ended

	// Guarded by Registry.mu.
	course
	work
	findings  []string
	forgotten int // findings dropped, oldest first
}

// course is how far a job is in its life.
type course struct {
	state State
	asked bool // to stop
	err   error
	wall  time.Time // when it began, shown only (law 11)
	began time.Duration
	ended time.Duration
}

// work is what a job has done, and where it is.
type work struct {
	at       string
	bytes    tally
	items    tally
	nextFree time.Duration // Clock.Mono at which what was spent is paid for
}

// tally counts towards a total.
type tally struct{ done, total, resumed int64 }

// shown is t as it is told: a total that was estimated too low grows with what
// is done.
func (t tally) shown() tally {
	if t.total > 0 {
		t.total = max(t.total, t.done)
	}
	return t
}

// Start queues a job, and runs it as soon as its kind has room. It never waits.
func (r *Registry) Start(s Spec, run Run) *Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	waiting := 0
	for _, j := range r.jobs {
		if j.state.Over() {
			continue
		}
		if s.Alone && j.spec.Kind == s.Kind && j.spec.Slot == s.Slot && j.spec.What == s.What && !j.asked {
			return j
		}
		if j.state == Queued {
			waiting++
		}
	}
	r.last++
	j := &Job{r: r, id: fmt.Sprintf("j%d", r.last), spec: s, run: run, course: course{state: Queued}, over: make(chan struct{})}
	r.jobs = append(r.jobs, j)
	switch {
	case r.closed:
		j.end(Stopped, fmt.Errorf("start job %s: this node stops", j.id))
	case waiting >= queuedMax:
		j.end(Failed, fmt.Errorf("start job %s: %d jobs wait already", j.id, waiting))
	default:
		r.next()
	}
	return j
}

// next starts what may run; r.mu is held.
func (r *Registry) next() {
	for _, j := range r.jobs {
		if k := j.spec.Kind; j.state == Queued && !r.closed && r.running[k] < max(1, r.o.RunningMax[k]) {
			r.running[k]++
			var ctx context.Context
			ctx, j.cancel = context.WithCancel(r.ctx)
			j.state, j.wall, j.began = Running, r.o.Clock.Wall(), r.o.Clock.Mono()
			j.nextFree = j.began
			r.wg.Go(func() { r.work(ctx, j) })
		}
	}
}

func (r *Registry) work(ctx context.Context, j *Job) {
	log := r.o.Logger.With("job", j.id, "kind", j.spec.Kind, "slot", j.spec.Slot)
	log.Info("job begins", "what", j.spec.What, "by", j.spec.By)
	err := attempt(ctx, j)
	j.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	state := Done
	switch {
	case err != nil && (j.asked || r.closed):
		state = Stopped
	case err != nil:
		state = Failed
	}
	r.running[j.spec.Kind]--
	j.end(state, err)
	log.Info("job ended", "state", state, "findings", j.forgotten+len(j.findings), "err", err)
	r.next()
}

// attempt runs a job; a panic in one is that job's alone (law 9).
func attempt(ctx context.Context, j *Job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("run job %s: internal error: %v", j.id, p)
		}
	}()
	return j.run(ctx, &Progress{j})
}

// end closes a job; r.mu is held. Of the ended ones the oldest are forgotten.
func (j *Job) end(s State, err error) {
	r := j.r
	j.state, j.err, j.ended, j.run = s, err, r.o.Clock.Mono(), nil
	close(j.over)
	over := 0
	for _, x := range r.jobs {
		if x.state.Over() {
			over++
		}
	}
	r.jobs = slices.DeleteFunc(r.jobs, func(x *Job) bool {
		if over > keptMax && x.state.Over() {
			over--
			return true
		}
		return false
	})
}

// Find returns a job by its ID: one that is not over, or among the last that are.
func (r *Registry) Find(id string) (*Job, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.jobs, func(j *Job) bool { return j.id == id })
	if i < 0 {
		return nil, false
	}
	return r.jobs[i], true
}

// Close stops all jobs and waits for them. Later ones are not begun.
func (r *Registry) Close() {
	r.mu.Lock()
	r.closed = true
	for _, j := range slices.Clone(r.jobs) {
		if j.state == Queued {
			j.end(Stopped, nil)
		}
	}
	r.mu.Unlock()
	r.ends()
	r.wg.Wait()
}

// ID names the job, such as "j12".
func (j *Job) ID() string { return j.id }

// Over is closed when the job has ended.
func (j *Job) Over() <-chan struct{} { return j.over }

// Err is the error that the job ended with; nil before that.
func (j *Job) Err() error {
	j.r.mu.Lock()
	defer j.r.mu.Unlock()
	return j.err
}

// Stop asks a job to end; one that is over stays as it is. It does not wait.
func (j *Job) Stop() {
	j.r.mu.Lock()
	defer j.r.mu.Unlock()
	j.asked = true
	switch j.state {
	case Queued:
		j.end(Stopped, nil)
	case Running:
		j.cancel()
	}
}
