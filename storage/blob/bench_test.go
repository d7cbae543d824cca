package blob

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/zstd"

	"mailnode/storage/slot"
)

// mailMix makes messages of realistic sizes (log-normal, median 12 KB, at most
// 5 MB): text of words by Zipf's law in lines, some of it HTML; what is larger
// than 30 KB is for the most part base64 of noise, as pictures and PDFs are.
func mailMix(messages int) map[string][][]byte {
	rng := rand.New(rand.NewPCG(7, 7))
	words := make([]string, 5000)
	for i := range words {
		b := make([]byte, 2+rng.IntN(3+i/600))
		for j := range b {
			b[j] = "etaoinshrdlucmfwypvbgkjqxz"[min(25, int(rng.ExpFloat64()*6))]
		}
		words[i] = string(b)
	}
	prose := func(b *bytes.Buffer, n int, html bool) {
		for end := b.Len() + n; b.Len() < end; {
			var line strings.Builder
			if html && rng.IntN(3) == 0 {
				line.WriteString("<p style=3D\"margin:0 0 1em\">")
			}
			for line.Len() < 66 {
				line.WriteString(words[int(math.Exp(rng.Float64()*math.Log(float64(len(words)))))-1])
				line.WriteByte(' ')
			}
			b.WriteString(line.String() + "\r\n")
		}
	}
	out := map[string][][]byte{}
	for i := range messages {
		size := int(min(5e6, max(1000, 12e3*math.Exp(1.95*rng.NormFloat64()))))
		var b bytes.Buffer
		for h := range 6 + rng.IntN(6) {
			fmt.Fprintf(&b, "Received: from mx%d.example.test (mx%d.example.test [192.0.2.%d])\r\n\tby in.example.test with ESMTPS id %016x;\r\n\tSat, 21 Nov 2026 10:%02d:%02d +0000\r\n",
				h, rng.IntN(40), rng.IntN(250), rng.Uint64(), rng.IntN(60), rng.IntN(60))
		}
		fmt.Fprintf(&b, "From: %s@example.test\r\nSubject: %s %s\r\nMessage-ID: <%016x.%d@example.test>\r\nDKIM-Signature: %s\r\n\r\n", words[rng.IntN(99)],
			words[rng.IntN(500)], words[rng.IntN(500)], rng.Uint64(), i, base64.StdEncoding.EncodeToString(randomBytes(rng, 256)))
		kind := "text and HTML"
		if size <= 30<<10 {
			prose(&b, max(0, size-b.Len()), i%2 == 0)
		} else {
			kind = "with base64"
			prose(&b, 6000, true)
			raw := base64.StdEncoding.EncodeToString(randomBytes(rng, (size-b.Len())*57/78))
			for len(raw) > 0 {
				n := min(76, len(raw))
				b.WriteString(raw[:n] + "\r\n")
				raw = raw[n:]
			}
		}
		out[kind] = append(out[kind], b.Bytes())
		out["all"] = append(out["all"], b.Bytes())
	}
	return out
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n; i += 8 {
		v := rng.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

// cpuSeconds is what the process has used: other work on the machine makes a
// clock on the wall useless.
func cpuSeconds(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// BenchmarkZstd is for the choice of the level: what is left of realistic mail,
// and how much processor it takes to make and to read that.
func BenchmarkZstd(b *testing.B) {
	mix := mailMix(600)
	for kind, list := range mix {
		mix[kind] = slices.DeleteFunc(list, func(m []byte) bool { return len(m) > EncodedBytesMax })
	}
	kinds := []string{"text and HTML", "with base64", "all"}
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression} {
		for _, literals := range []bool{false, true} {
			for _, kind := range kinds {
				b.Run(fmt.Sprintf("%v/literals %v/%s", level, literals, kind), func(b *testing.B) {
					enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithAllLitEntropyCompression(literals),
						zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(EncodedBytesMax), zstd.WithLowerEncoderMem(true))
					if err != nil {
						b.Fatal(err)
					}
					benchZstd(b, enc, mix[kind])
				})
			}
		}
	}
}

func benchZstd(b *testing.B, enc *zstd.Encoder, list [][]byte) {
	var in, out, kept int64
	packed := make([][]byte, len(list))
	start := cpuSeconds(b)
	for b.Loop() {
		in, out, kept = 0, 0, 0
		for i, m := range list {
			p := enc.EncodeAll(m, packed[i][:0])
			in, out = in+int64(len(m)), out+int64(len(p))
			if float64(len(p)) > float64(len(m))*(1-shrinkMin) {
				kept++
			}
			packed[i] = p
		}
	}
	b.ReportMetric(float64(in)*float64(b.N)/1e6/(cpuSeconds(b)-start), "MB/cpu-s")
	b.ReportMetric(float64(out)/float64(in)*100, "%left")
	b.ReportMetric(float64(kept)/float64(len(list))*100, "%kept-plain")
	b.StopTimer()
	d := NewHandles(1).decoder
	room := make([]byte, 0, EncodedBytesMax)
	start = cpuSeconds(b)
	for i, p := range packed {
		if raw, err := d.DecodeAll(p, room[:0:len(list[i])]); err != nil || len(raw) != len(list[i]) {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(in)/1e6/(cpuSeconds(b)-start), "decoded-MB/cpu-s")
}

// BenchmarkRewrite copies realistic mail on a real disk, synced: what a
// compaction does without a limit.
func BenchmarkRewrite(b *testing.B) {
	mix := mailMix(1500)["all"]
	s, err := Open(Options{FS: vfs.Default, Dir: b.TempDir(), Cluster: "test", Slot: 7})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var refs []slot.BodyRef
	var locs []Location
	var in int64
	for i, m := range mix {
		ref := slot.BodyRef{GUID: slot.SumGUID(m), ID: slot.BodyID(i)}
		loc, err := s.Put(ref, &BirthNote{}, bytes.NewReader(m), int64(len(m)))
		if err != nil {
			b.Fatal(err)
		}
		refs, locs, in = append(refs, ref), append(locs, loc), in+loc.RecordBytes()
	}
	if err := s.Sync(); err != nil {
		b.Fatal(err)
	}
	for _, again := range []bool{false, true} {
		name := "first time"
		if again {
			name = "encoded already"
		}
		next := make([]Location, len(locs))
		b.Run(name, func(b *testing.B) {
			start := cpuSeconds(b)
			for b.Loop() {
				r, err := s.NewRewriter()
				if err != nil {
					b.Fatal(err)
				}
				for i := range refs {
					if next[i], err = r.Copy(refs[i], locs[i]); err != nil {
						b.Fatal(err)
					}
				}
				if err := r.Sync(); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
			b.ReportMetric(float64(in)*float64(b.N)/1e6/b.Elapsed().Seconds(), "MB/s")
			b.ReportMetric(float64(in)*float64(b.N)/1e6/(cpuSeconds(b)-start), "MB/cpu-s")
		})
		locs = next
	}
}

// BenchmarkOpen reads bodies of 12 KB at random, proved.
func BenchmarkOpen(b *testing.B) {
	s, err := Open(Options{FS: vfs.NewMem(), Dir: "/", Cluster: "test", Slot: 7})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	m := mailMix(200)["text and HTML"]
	r, err := s.NewRewriter()
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	for _, encoded := range []bool{false, true} {
		var refs []slot.BodyRef
		var locs []Location
		for i, text := range m {
			ref := slot.BodyRef{GUID: slot.SumGUID(text), ID: slot.BodyID(i)}
			loc, err := s.Put(ref, &BirthNote{}, bytes.NewReader(text), int64(len(text)))
			if err == nil && encoded {
				loc, err = r.Copy(ref, loc)
			}
			if err != nil {
				b.Fatal(err)
			}
			refs, locs = append(refs, ref), append(locs, loc)
		}
		b.Run(fmt.Sprintf("zstd %v", encoded), func(b *testing.B) {
			i := 0
			for b.Loop() {
				i = (i + 1) % len(refs)
				body, err := s.Open(refs[i], locs[i])
				if err != nil {
					b.Fatal(err)
				}
				body.Close()
			}
		})
	}
}
