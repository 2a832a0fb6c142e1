"""Exchanges of two events: what comes out, and what is declined with its reason."""
import pytest

from vidneg.core.errors import VidnegError
from vidneg.negatives.order import (
    Order,
    OrderCounts,
    exchange_events,
    find_events,
    find_orders,
    load_counts,
    save_counts,
)
from vidneg.text.edits import apply_edit, undo
from vidneg.text.parse import load_parser
from vidneg.text.syntax import Tree

EXCHANGED = [
    ("A man runs and then jumps.", "A man jumps and then runs."),
    ("Two boys dance and then sing.", "Two boys sing and then dance."),
    ("A man runs and then he jumps.", "A man jumps and then he runs."),
    ("The dogs jump and then they swim.", "The dogs swim and then they jump."),
    ("He picks up the ball and then throws it.", "He throws the ball and then picks it up."),
    ("She peels the apples and then washes them.", "She washes the apples and then peels them."),
    ("A girl smiles before sitting down.", "A girl sits down before smiling."),
    ("The men dance before drinking tea.", "The men drink tea before dancing."),
    ("A man is singing before playing the guitar.", "A man is playing the guitar before singing."),
    ("A woman is seen stirring the soup before tasting it.", "A woman is seen tasting the soup before stirring it."),
    ("A boy dances after riding a bike.", "A boy rides a bike after dancing."),
    ("After washing the car, the man drinks a beer.", "After drinking a beer, the man washes the car."),
    ("Before washing the car, the man drinks a beer.", "Before drinking a beer, the man washes the car."),
    ("The man kicks the ball before he waves.", "The man waves before he kicks the ball."),
    ("A dog barks before a woman opens the window.", "A woman opens the window before a dog barks."),
    ("A baby cries and then a dog barks.", "A dog barks and then a baby cries."),
    ("A boy runs and jumps and then swims in the lake.", "A boy swims in the lake and then runs and jumps."),
    ("An old man eats an apple and then a woman sings.", "A woman sings and then an old man eats an apple."),
    ("He ran and then jumped over a fence.", "He jumped over a fence and then ran."),
    ("There is a man running and then jumping.", "There is a man jumping and then running."),
    ("Then, a man runs before jumping.", "Then, a man jumps before running."),
    ("The woman brushes her hair and then puts on a hat.", "The woman puts on a hat and then brushes her hair."),
    ("The woman hugs her son and then kisses him.", "The woman kisses her son and then hugs him."),
    ("The man hugs his son and then kisses him.", "The man kisses his son and then hugs him."),
    ("A man sits at a table and plays cards before singing.", "A man sits at a table and sings before playing cards."),
    ("A man (in red) runs and then jumps!", "A man (in red) jumps and then runs!"),
    ('"A man runs and then jumps."', '"A man jumps and then runs."'),
    ("a man runs and then jumps", "a man jumps and then runs"),
    ("He kneels, then lies down, and sleeps.", "He lies down, and sleeps, then kneels."),
    ("The kids run and then jump into a pool.", "The kids jump into a pool and then run."),
    ("The men drink tea and then sit down.", "The men sit down and then drink tea."),
    ("The dogs run before they bark.", "The dogs bark before they run."),
    ("A woman drinks coffee, and then a dog eats a bone.", "A dog eats a bone, and then a woman drinks coffee."),
    ("Several cars are shown followed by a dog.", "A dog is shown followed by several cars."),
    ("A man lifts the weights and then drops them.", "A man drops the weights and then lifts them."),
    ("The cat jumps onto the table before eating the fish.", "The cat eats the fish before jumping onto the table."),
    ("A boy waves to the camera and then kicks the ball.", "A boy kicks the ball and then waves to the camera."),
    ("She mixes the flour and then pours the milk.", "She pours the milk and then mixes the flour."),]

DECLINED = [
    ("A woman washes the car and then he waves.", "pronoun"),
    ("He puts the cup on the table and then lifts it.", "pronoun"),
    ("A dog barks after a woman opens the window.", "comes first: open"),
    ("A man walks in and then walks away.", "needs what comes before: away"),
    ("A man runs and then stops.", "comes last: stop"),
    ("A man approaches the horse and then washes it.", "comes first: approach"),
    ("A woman sings and then sings again.", "needs what comes before: again"),
    ("She lifts the box and then sets it back down.", "needs what comes before: back"),
    ("A man runs and jumps.", "no match"),
    ("The man then runs.", "no match"),
    ("A man runs, then jumps, then swims.", "several orders"),
    ("A dog catches a ball and then the man takes it.", "pronoun"),
    ("A man picks up a ball and then throws the ball.", "noun twice"),
    ("The man jumped off the horse and then got off the bike.", "needs what comes before: off"),
    ("A man stands before a crowd.", "no match"),
    ("He chases after the dog.", "no match"),
    ("The girl sits down while a boy sings.", "no match"),
    ("A man jumps into the water and then gets out.", "needs what comes before: out"),]


def parse(text): return load_parser().parse([text])[0]


def after(text, order):
    for e in order.edits: text = apply_edit(text, e)
    return text


@pytest.mark.parametrize(("caption", "negative"), EXCHANGED)
def test_events_change_places(caption, negative):
    (order,) = find_orders(parse(caption))
    assert after(caption, order) == negative
    assert undo(negative, order.edits) == caption


@pytest.mark.parametrize(("caption", "why"), DECLINED)
def test_a_caption_is_declined_with_a_reason(caption, why): assert find_orders(parse(caption)) == why


@pytest.mark.parametrize(("caption", "negative"), EXCHANGED)
def test_a_second_exchange_gives_the_caption_back(caption, negative):
    back = find_orders(parse(negative))
    if isinstance(back, str): return
    assert sorted(after(negative, back[0]).split()) == sorted(caption.split()) # "picks up a ball", "picks a ball up"


def test_most_exchanges_can_be_undone_by_another_exchange():
    backs = [find_orders(parse(negative)) for _, negative in EXCHANGED]
    assert sum(not isinstance(b, str) for b in backs) >= 0.7*len(backs)


def test_events_are_found_without_being_exchanged():
    tree = Tree(parse("A man walks in and then walks away."))
    events = find_events(tree)
    assert (events.marker, events.late, events.whole, events.forms) == ("then", False, False, ("VBZ", "VBZ"))
    assert [tree.lower[e.heads[0]] for e in (events.first, events.second)] == ["walks", "walks"]
    assert exchange_events(tree, events) == "needs what comes before: away"


def test_after_tells_the_later_event_first():
    (order,) = find_orders(parse("A boy dances after riding a bike."))
    assert (order.earlier[0], order.later[0]) == ("v:ride", "v:dance")


def order_of(earlier, later): return Order("then", (), earlier, later)


def test_odds_change_their_sign_with_the_order():
    counts = OrderCounts({"v:gather": 7, "v:build": 1}, {"v:build": 5, "v:gather": 0})
    assert counts.odds(order_of(("v:gather",), ("v:build",))) == pytest.approx(-counts.odds(
        order_of(("v:build",), ("v:gather",))))


def test_kept_captions_tell_both_orders_equally_often():
    counts = OrderCounts({"v:gather": 60, "v:build": 20}, {"v:gather": 20, "v:build": 60})
    usual, rare = order_of(("v:gather",), ("v:build",)), order_of(("v:build",), ("v:gather",))
    assert counts.keep(rare) == 1
    assert counts.keep(usual) == pytest.approx((22/62)**2)


def test_a_word_that_was_never_counted_tells_nothing():
    assert OrderCounts().keep(order_of(("v:zorb",), ("v:glib",))) == 1


def test_counts_are_written_and_read(tmp_path):
    counts = OrderCounts().add([parse("A man gathers wood and then builds a hut."), parse("He runs and then jumps.")])
    again = load_counts(save_counts(tmp_path/"c.txt", counts, least=1))
    assert (again.earlier, again.later) == (counts.earlier, counts.later)
    assert counts.earlier["v:gather"] == 1 and counts.later["v:build"] == 1


def test_a_broken_file_of_counts_is_named(tmp_path):
    (tmp_path/"c.txt").write_text("v:run\t1\n")
    with pytest.raises(VidnegError, match="line 1"): load_counts(tmp_path/"c.txt")


def test_shipped_counts_hold_no_sentences():
    counts = load_counts()
    assert counts.earlier["v:sit"] > counts.later["v:sit"]
    assert all(" " not in f for f in counts.earlier)
