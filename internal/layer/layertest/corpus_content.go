package layertest

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
)

func names() []Case {
	strange := []string{
		"with space", "new\nline", "tab\t", "\u00fc\u00f1\u00ef", "e\u0301", "invalid\xff\xfe", "back\\slash", "co:lon", "com,ma",
		"quote'\"`", "*", "?", "[a]", "$HOME", "%41", "#", "~", "-", "--help", "...", ".hidden", "..double", "trailing ", " leading",
		"\x01\x1b[31m", "a=b", "\u202e", "CON", "a|b", "{x}", ";", "&",
	}
	var all []entry
	for _, name := range strange {
		all = append(all, dir("d/"+name), file("d/"+name+"/"+name, name, mode(0o640)), file("f/"+name, name), symlink("s/"+name, name), hardLink("h/"+name, "f/"+name))
	}
	var upper []entry
	for _, name := range strange {
		upper = append(upper, whiteout("f/"+name), file("d/"+name+"/new", ""))
	}
	deep := []entry{}
	path := ""
	for i := range 200 {
		path += fmt.Sprintf("%d/", i)
		deep = append(deep, dir(path, mode(0o755)))
	}
	long := repeat("n", 255)
	return []Case{
		{Name: "names/strange", Layers: stack(layer(all...), layer(upper...)), TarDiffers: "it knows no whiteouts"},
		{Name: "names/long", Layers: stack(
			layer(file(long, "1"), dir(repeat("d", 255)), file(repeat("d", 255)+"/"+long, "2"), symlink("s", repeat("../", 1000)+"x"), hardLink("h", long)),
			layer(hardLink(repeat("h", 200), repeat("d", 255)+"/"+long), file(repeat("d/", 100)+"end", "3")),
		)},
		{Name: "names/long-gnu", Layers: stack(layer(
			entry{raw: gnuLong('L', repeat("e", 150)) + seal(rawHeader(tar.TypeReg, "short", 1)) + padded("x")},
			entry{raw: gnuLong('K', repeat("k/", 150)) + gnuLong('L', repeat("l", 120)) + seal(rawHeader(tar.TypeSymlink, "short", 0))},
			file(repeat("g", 130), "y", format(tar.FormatGNU)),
			file(repeat("p/", 60)+"ustar", "z", format(tar.FormatUSTAR)),
		))},
		{Name: "names/deep", Layers: stack(
			layer(append(deep, file(path+"bottom", "x"))...),
			layer(file(path+"implied", "y"), whiteout(path+"bottom")),
		), TarDiffers: "it knows no whiteouts"},
	}
}

// sparseRuns are a few pieces of a file of three MiB, that begin and end within pages. All but the
// last are of whole blocks: GNU tar reads no others.
func sparseRuns() []run {
	return []run{
		{0, noise(0, 512)},
		{8192, noise(1, 4096)},
		{100_000, noise(2, 10_240)},
		{1 << 20, noise(3, 512)},
		{1<<20 + 512, noise(4, 512)},
		{2_000_000, noise(5, 70_144)},
		{3<<20 - 10, "almost end"},
	}
}

// noise is bytes that differ with the seed and hold no long runs of zeros.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(1 + r.IntN(255))
	}
	return string(b)
}

func contents() []Case {
	var sizes []entry
	for i, n := range []int{0, 1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 262_143, 262_144, 262_145, 1<<20 + 1} {
		sizes = append(sizes, file(fmt.Sprintf("size-%d", n), noise(uint64(i), n)))
	}
	var small []entry
	for i := range 2000 {
		small = append(small, file(fmt.Sprintf("dir-%d/file-%d", i/100, i), noise(uint64(i), i%700)))
	}
	zeros := repeat("\x00", 1<<20)
	var many []run // enough for several blocks of GNU's own map
	for i := range int64(60) {
		many = append(many, run{i * 40_960, noise(uint64(i), 1024)})
	}
	regular := rawHeader('7', "contiguous", 3)
	old := rawHeader(0, "v7", 2)
	clear(old[257:])
	folder := rawHeader(0, "v7-dir/", 0)
	clear(folder[257:])
	return []Case{
		{Name: "content/sizes", Layers: stack(layer(sizes...))},
		{Name: "content/small", Layers: stack(layer(small...), layer(whiteout("dir-3"), whiteout("dir-4/file-450"))), TarDiffers: "it knows no whiteouts"},
		{Name: "content/old-types", Layers: stack(layer(entry{raw: seal(regular) + padded("abc") + seal(old) + padded("de") + seal(folder)})), UmociDiffers: "it knows no contiguous files"},
		{
			Name: "sparse/old",
			Layers: stack(layer(
				oldSparse("few", 3<<20, sparseRuns()), oldSparse("many", 3<<20, many), oldSparse("only-a-hole", 1<<20, nil),
			), layer(hardLink("linked", "few"))),
			UmociDiffers: "it knows no such type",
		},
		{
			Name: "sparse/pax",
			Layers: stack(layer(
				paxSparse("0.0", "0.0", 3<<20, sparseRuns()), paxSparse("0.1", "0.1", 3<<20, sparseRuns()),
				paxSparse("1.0", "1.0", 3<<20, sparseRuns()), paxSparse("1.0", "many", 3<<20, many),
			), layer(hardLink("linked", "1.0"))),
		},
		{
			Name: "sparse/edges",
			Layers: stack(layer(
				paxSparse("1.0", "only-a-hole", 1<<20, nil), paxSparse("0.1", "empty", 0, nil),
				paxSparse("1.0", "no-hole", 5, []run{{0, "whole"}}), paxSparse("0.0", "hole-at-end", 1<<20, []run{{0, noise(1, 8192)}}),
				paxSparse("1.0", "hole-at-beginning", 1<<20, []run{{1<<20 - 8192, noise(1, 8192)}}), paxSparse("1.0", "odd-size", 1<<20+7, []run{{4096, noise(9, 4096)}}),
			)),
		},
		{
			Name: "sparse/zeros",
			Layers: stack(layer(
				file("all", zeros), file("begin", zeros+"x"), file("end", "x"+zeros), file("middle", noise(1, 65536)+zeros+noise(2, 100)),
				file("short", noise(1, 100)+zeros[:60_000]+"x"), file("odd", "x"+zeros[:200_000]+"y"), file("small", zeros[:4096]),
			)),
			TarDiffers: "it writes zeros",
		},
	}
}
