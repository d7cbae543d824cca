package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"mailnode/node/job"
)

// Job is long work with its progress (law 12), and JobDetail what it found.
type (
	Job       = job.Status
	JobDetail = job.Detail
)

// Jobs is the answer of `job list`: those that are not over, then the last that
// are, newest first.
type Jobs struct {
	Jobs []Job `json:"jobs"`
}

func (s *Server) jobRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/jobs", read(s, func(context.Context, *http.Request) (Jobs, error) {
		return Jobs{Jobs: orEmpty(s.backend.Jobs.List(true))}, nil
	}))
	mux.Handle("GET /v1/jobs/{id}", read(s, func(_ context.Context, r *http.Request) (JobDetail, error) {
		after := 0
		if text := r.URL.Query().Get("after"); text != "" {
			var err error
			if after, err = strconv.Atoi(text); err != nil || after < 0 {
				return JobDetail{}, &Error{Text: fmt.Sprintf("read findings after %q: want a number", text), Exit: ExitUsage}
			}
		}
		j, err := s.job(r.PathValue("id"))
		if err != nil {
			return JobDetail{}, err
		}
		return j.Detail(after), nil
	}))
	mux.HandleFunc("POST /v1/jobs/{id}/stop", func(w http.ResponseWriter, r *http.Request) {
		change(s, "stop job", requestTimeout, func(context.Context, struct{}, string) (Job, error) {
			j, err := s.job(r.PathValue("id"))
			if err != nil {
				return Job{}, err
			}
			if was := j.Status(); was.State.Over() {
				return was, &Error{Text: fmt.Sprintf("stop job %s: it is over (%s)", was.ID, was.State), Exit: ExitNothing, Next: "mailnode job show " + was.ID}
			}
			j.Stop()
			return j.Status(), nil
		})(w, r)
	})
}

func (s *Server) job(id string) (*job.Job, error) {
	j, ok := s.backend.Jobs.Find(id)
	if !ok {
		return nil, &Error{Text: fmt.Sprintf("find job %q: there is none; results are kept for the last hundred, until the node stops", id),
			Exit: ExitUsage, Next: "mailnode job list", status: http.StatusNotFound}
	}
	return j, nil
}

// Jobs lists them.
func (c *Client) Jobs(ctx context.Context) (j Jobs, err error) {
	return j, c.get(ctx, "/v1/jobs", &j)
}

// Job shows one, and its findings after the first so many.
func (c *Client) Job(ctx context.Context, id string, after int) (j JobDetail, err error) {
	return j, c.get(ctx, fmt.Sprintf("/v1/jobs/%s?after=%d", url.PathEscape(id), after), &j)
}

// StopJob asks one to end; it may still run for a moment.
func (c *Client) StopJob(ctx context.Context, id string) (j Job, err error) {
	return j, c.post(ctx, "/v1/jobs/"+url.PathEscape(id)+"/stop", struct{}{}, &j)
}
