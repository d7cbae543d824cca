package job

import (
	"time"
)

// Status is a job as operators see it. Fields of the JSON are only ever added.
type Status struct {
	ID    string  `json:"id"`
	Kind  string  `json:"kind"`
	Slot  string  `json:"slot,omitempty"`
	About string  `json:"about"` // slot and what, in words
	State State   `json:"state"`
	Done  float64 `json:"done"`  // 0 to 1
	EtaS  int64   `json:"eta_s"` // -1: not known

	By      string `json:"by,omitempty"`
	Started string `json:"started,omitempty"` // wall clock, shown only
	RunS    int64  `json:"run_s"`             // how long it ran, or runs
	At      string `json:"at,omitempty"`
	Counts
	Error string `json:"error,omitempty"`
}

// Counts are what a job has done and found.
type Counts struct {
	BytesDone       int64 `json:"bytes_done"`
	BytesTotal      int64 `json:"bytes_total"` // 0: not known
	ItemsDone       int64 `json:"items_done"`
	ItemsTotal      int64 `json:"items_total"` // 0: not known
	RateBytesPerSec int64 `json:"rate_bytes_per_sec,omitempty"`
	Findings        int   `json:"findings"`          // all of them
	Dropped         int   `json:"dropped,omitempty"` // of these, the oldest that are no longer kept
}

// Detail is a job with findings.
type Detail struct {
	Status
	// Lines are findings in order; the first is number After+1. When After is
	// higher than what was asked for, those between have been dropped.
	After int      `json:"after"`
	Lines []string `json:"lines"`
	More  bool     `json:"more,omitempty"` // there are further ones, ask again
}

// List returns all jobs that are not over, oldest first, and then, with all, those
// that are, newest first.
func (r *Registry) List(all bool) []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []Status{}
	for _, j := range r.jobs {
		if !j.state.Over() {
			out = append(out, j.status())
		}
	}
	for i := len(r.jobs) - 1; all && i >= 0; i-- {
		if j := r.jobs[i]; j.state.Over() {
			out = append(out, j.status())
		}
	}
	return out
}

// Status returns the job as it is now.
func (j *Job) Status() Status {
	j.r.mu.Lock()
	defer j.r.mu.Unlock()
	return j.status()
}

// Detail returns the job as it is now, and its findings after the first so many:
// at most 1,000 of them.
func (j *Job) Detail(after int) Detail {
	j.r.mu.Lock()
	defer j.r.mu.Unlock()
	after = min(max(after, j.forgotten), j.forgotten+len(j.findings))
	rest := j.findings[after-j.forgotten:]
	d := Detail{Status: j.status(), After: after, More: len(rest) > answerMax}
	d.Lines = append([]string{}, rest[:min(len(rest), answerMax)]...)
	return d
}

// status is Status; r.mu is held.
func (j *Job) status() Status {
	bytes, items := j.bytes.shown(), j.items.shown()
	s := Status{ID: j.id, Kind: j.spec.Kind, Slot: j.spec.Slot, About: j.spec.What, State: j.state, EtaS: -1, By: j.spec.By, At: j.at,
		Counts: Counts{BytesDone: bytes.done, BytesTotal: bytes.total, ItemsDone: items.done, ItemsTotal: items.total,
			RateBytesPerSec: j.spec.RateBytesPerSec, Findings: j.forgotten + len(j.findings), Dropped: j.forgotten}}
	if s.Slot != "" && s.About != "" {
		s.About = s.Slot + " " + s.About
	} else if s.Slot != "" {
		s.About = s.Slot
	}
	if j.err != nil {
		s.Error = j.err.Error()
	}
	t := bytes
	if t.total == 0 {
		t = items
	}
	if t.total > 0 {
		s.Done = float64(t.done) / float64(t.total)
	}
	if j.wall.IsZero() {
		return s // it never ran
	}
	s.Started = j.wall.UTC().Format(time.RFC3339)
	until := j.r.o.Clock.Mono()
	if j.state.Over() {
		until = j.ended
	}
	s.RunS = int64((until - j.began) / time.Second)
	switch {
	case j.state == Done:
		s.Done, s.EtaS = 1, 0
	case j.state == Running && t.total > 0 && t.done > t.resumed:
		perUnit := float64(until-j.began) / float64(t.done-t.resumed)
		s.EtaS = int64(perUnit * float64(t.total-t.done) / float64(time.Second))
	}
	return s
}
