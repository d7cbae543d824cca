package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVolumes(t *testing.T) {
	for text, want := range map[string][]Volume{
		"data = \"/srv\"\n": {{"/srv", "/srv"}},
		"data = \"/srv\"\n[[volume]]\nmeta = \"/ssd/m\"\ndata = \"/d1/m/\"\n[[volume]]\nmeta = \"/d2\"\n": {{"/ssd/m", "/d1/m"}, {"/d2", "/d2"}},
	} {
		c, problems := parse("test", text, "mail1.example.org")
		if problems != nil {
			t.Fatal(problems)
		}
		if diff := cmp.Diff(want, c.Volumes); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}
