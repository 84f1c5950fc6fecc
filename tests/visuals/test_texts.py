from visuals import texts


def test_lines_are_broken_after_separators():
    width = texts.measure('golden_retriever_fro', 8)
    assert texts.wrap('golden_retriever_from_the_park_2', width, 8).split('\n') == [
        'golden_retriever_',
        'from_the_park_2',
    ]
    assert texts.wrap('0' * 25, width, 8).replace('\n', '') == '0' * 25
    assert texts.wrap('one two', 9, 8) == 'one two'
    assert texts.wrap('abc', 0, 8) == 'a\nb\nc'
