package layertest

import "fmt"

func stacks() []Case {
	var many [][]byte
	for i := range 130 {
		many = append(many, layer(
			dir("all", mode(int64(0o700+i%8))), file("all/last", fmt.Sprint(i)), file(fmt.Sprintf("all/file-%d", i), fmt.Sprint(i)),
			file(fmt.Sprintf("own/%d/x", i), ""),
		))
	}
	tall := stack(layer(odd("d"), file("d/a", "x"), symlink("l", "d")))
	for i := range 129 {
		tall = append(tall, layer(file(fmt.Sprintf("l/%d", i), ""), hardLink(fmt.Sprintf("l/link-%d", i), "d/a"), whiteout(fmt.Sprintf("d/%d", i-3))))
	}
	same := layer(dir("d"), file("d/a", "x"), whiteout("d/b"), file("d/c", "y"))
	return []Case{
		{Name: "stack/many", Layers: many},
		{Name: "stack/many-that-need-others", Layers: tall, TarDiffers: "it knows no whiteouts"},
		{Name: "stack/empty", Layers: stack(layer())},
		{Name: "stack/no-bytes", Layers: stack(layer(file("a", "x")), []byte{})},
		{Name: "stack/empty-ones-between", Layers: stack(layer(), layer(odd("d")), layer(), layer(file("d/a", "")), layer())},
		{Name: "stack/same-layer-twice", Layers: stack(same, layer(file("d/b", "z")), same, layer(opaque("d")), same), TarDiffers: "it knows no whiteouts"},
		{Name: "stack/no-end", Layers: stack(trimmed(layer(dir("d"), file("d/a", "x")), 2*blockSize), layer(file("b", "")))},
		{Name: "stack/more-behind-the-end", Layers: stack(append(layer(file("a", "x")), repeat("rubbish", 1000)...), layer(file("b", "")))},
	}
}

// trimmed is a tar without its last n bytes.
func trimmed(b []byte, n int) []byte { return b[:len(b)-n] }

// shared are stacks that have a layer in common, each on others: what a layer becomes once must not
// show where it is used again.
func shared() []Case {
	inFolder := layer(file("d/x", "1"), whiteout("d/w"), dir("e"), file("e/f", "2"), hardLink("d/h", "e/f"))
	linked := layer(hardLink("b", "a"), file("c", "3"))
	marked := layer(opaque("d"), file("d/e/x", "4"), dir("d/f"))
	lower := []struct {
		name    string
		entries []entry
		tar     string
	}{
		{"nothing", nil, ""},
		{"odd", []entry{odd("d"), file("d/w", "w"), odd("d/e"), file("d/e/y", ""), file("a", "one")}, ""},
		{"plain", []entry{dir("d", mode(0o700), owner(7, 7)), file("d/z", ""), file("a", "two", owner(5, 5)), hardLink("a2", "a")}, ""},
		{"link", []entry{dir("t", mode(0o711)), dir("t/e", mode(0o1700)), file("t/w", "w"), symlink("d", "/t"), symlink("a", "t/w")}, ""},
		{"file", []entry{file("d", "no folder"), file("a", "three", xattr("user.x", "y"))}, "it puts nothing into a file"},
	}
	var cases []Case
	for _, l := range lower {
		base := layer(l.entries...)
		add := func(what string, differs string, layers ...[]byte) {
			cases = append(cases, Case{
				Name: "shared/" + what + "-on-" + l.name, Layers: layers, TarDiffers: differs, UmociDiffers: umociOn(what, l.name),
			})
		}
		add("folder", "it knows no whiteouts", base, inFolder)
		add("opaque", "it knows no opaque markers", base, marked)
		if l.entries != nil {
			add("link", l.tar, base, linked)
			add("all", "it knows no whiteouts", base, linked, inFolder, marked, inFolder)
		}
	}
	return cases
}

// umociOn says why umoci fails or differs for a layer on another.
func umociOn(what, lower string) string {
	switch {
	case lower == "file" && what != "link":
		return "it fails, as GNU tar does"
	case lower == "odd" && what != "link" && what != "folder":
		return inherits
	}
	return ""
}
