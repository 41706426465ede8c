# %% [markdown]
# # Where will the ball go next?
#
# **Question: what can a network see in a film that it can't see in a picture?**
#
# One image of a ball shows where it is, not where it goes. The notebook draws films of a bouncing ball, predicts
# its next position, and then names for each picture of a film what the ball is doing: video classification on the
# level of frames, by a small convolutional network that sees each picture and a recurrent network that remembers.

# %%
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import matplotlib.pyplot as plt
import numpy as np

from layers import GRU

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)
SIZE, TIME = 16, 20


def balls(count, time=TIME):
    """Positions (count, time, 2) between 0 and 1 of balls that bounce off the walls, and their velocities."""
    place = generator.uniform(0.1, 0.9, (count, 2))
    speed = generator.uniform(0.03, 0.12, (count, 1))
    angle = generator.uniform(0, 2 * np.pi, count)
    velocity = speed * np.stack([np.cos(angle), np.sin(angle)], 1)
    places, velocities = [], []
    for _ in range(time):
        places.append(place)
        velocities.append(velocity)
        out = (place + velocity < 0) | (place + velocity > 1)
        velocity = np.where(out, -velocity, velocity)
        place = place + velocity
    return np.stack(places, 1).astype("float32"), np.stack(velocities, 1).astype("float32")


def draw(places):
    """Pictures (…, SIZE, SIZE, 1): a soft disc."""
    grid = (np.arange(SIZE) + 0.5) / SIZE
    row = np.exp(-(((grid - places[..., 1:]) * SIZE / 1.3) ** 2))
    column = np.exp(-(((grid - places[..., :1]) * SIZE / 1.3) ** 2))
    return (row[..., :, None] * column[..., None, :])[..., None].astype("float32")


places, velocities = balls(1200, TIME + 1)
films = draw(places[:, :TIME])
figure, axes = plt.subplots(2, 10, figsize=(12, 2.6), layout="constrained")
for i in range(2):
    for t in range(10):
        axes[i, t].imshow(films[i, 2 * t, ..., 0], cmap="gray")
        axes[i, t].set(xticks=[], yticks=[])
figure.suptitle("two films, every second picture")
plt.show()

# %% [markdown]
# ## The next position
#
# A feed-forward network sees the last picture; the recurrent one sees the film. Both get the same convolutional eye.


# %%
def eye():
    return keras.Sequential(
        [
            keras.layers.Conv2D(8, 3, 2, "same", activation="relu"),
            keras.layers.Conv2D(16, 3, 2, "same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, "relu"),
        ]
    )


def network(recurrent, outputs, activation=None):
    inputs = keras.Input((None, SIZE, SIZE, 1))
    seen = keras.layers.TimeDistributed(eye())(inputs)
    if recurrent:
        seen = GRU(48, return_sequences=True)(seen)
    return keras.Model(inputs, keras.layers.Dense(outputs, activation=activation)(seen))


following = places[:, 1:]
train, test = slice(0, 1000), slice(1000, None)
predictions, error = {}, {}
for name in ("one picture", "the film"):
    keras.utils.set_random_seed(0)
    model = network(name == "the film", 2)
    model.compile(keras.optimizers.Adam(4e-3), "mse")
    model.fit(films[train], following[train], epochs=14, batch_size=25, verbose=0)
    predictions[name] = model.predict(films[test], verbose=0)
    error[name] = np.linalg.norm(predictions[name] - following[test], axis=2).mean(0) * SIZE
print({name: f"{values[5:].mean():.2f} pixels" for name, values in error.items()})

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
film = 3
left.plot(*following[test][film].T, "o-", color="black", markersize=4, label="the ball")
for name in predictions:
    left.plot(*predictions[name][film].T, ".--", label=name)
left.set(title="predicted next positions", xlim=(-0.05, 1.05), ylim=(1.05, -0.05), aspect="equal")
left.legend(fontsize=8)
for name, values in error.items():
    right.plot(np.arange(1, TIME + 1), values, marker="o", markersize=3, label=name)
right.set(title="how far off, over the pictures seen", xlabel="pictures seen", ylabel="pixels", ylim=(0, None))
right.legend()
plt.show()

# %% [markdown]
# The first picture leaves both in doubt. With the second the recurrent network knows the velocity; what is left are
# the bounces. The one that sees single images stays off by the ball's speed.
#
# ## What is it doing? A name for each picture
#
# Five classes: up, down, left, right (the main direction of the velocity) and *bounce* (a wall was just hit). A label
# at every step.

# %%
names = ["left", "right", "up", "down", "bounce"]


def label(velocities):
    horizontal = np.abs(velocities[..., 0]) > np.abs(velocities[..., 1])
    kind = np.where(horizontal, (velocities[..., 0] > 0).astype(int), 2 + (velocities[..., 1] > 0).astype(int))
    hit = np.zeros(kind.shape, bool)
    hit[:, 1:] = np.any(np.sign(velocities[:, 1:]) != np.sign(velocities[:, :-1]), axis=2)
    return np.where(hit, 4, kind)


labels = label(velocities[:, :TIME])
accuracy, guesses = {}, {}
for name in ("one picture", "the film"):
    keras.utils.set_random_seed(0)
    model = network(name == "the film", len(names), "softmax")
    model.compile(keras.optimizers.Adam(4e-3), "sparse_categorical_crossentropy")
    model.fit(films[train], labels[train], epochs=14, batch_size=25, verbose=0)
    guesses[name] = model.predict(films[test], verbose=0)
    accuracy[name] = (guesses[name].argmax(-1) == labels[test]).mean(0)
print({name: f"{values[1:].mean():.2f} of the pictures after the first" for name, values in accuracy.items()})

# %% tags=["picture"]
figure, axes = plt.subplots(3, 1, figsize=(11, 4.2), layout="constrained", gridspec_kw={"height_ratios": [1.2, 1, 1]})
strip = np.concatenate(list(films[test][film, ..., 0]), axis=1)
axes[0].imshow(strip, cmap="gray")
axes[0].set(
    xticks=np.arange(TIME) * SIZE + SIZE / 2,
    xticklabels=[names[i] for i in labels[test][film]],
    yticks=[],
    title="a film and what is true",
)
axes[0].tick_params(axis="x", labelsize=7)
for axis, name in zip(axes[1:], guesses):
    axis.imshow(guesses[name][film].T, aspect="auto", cmap="Greens", vmin=0, vmax=1)
    axis.set(yticks=range(5), yticklabels=names, xticks=[], title=f"from {name}")
plt.show()

plt.figure(figsize=(6, 2.8), layout="constrained")
for name, values in accuracy.items():
    plt.plot(np.arange(1, TIME + 1), values, marker="o", markersize=3, label=name)
plt.ylim(0, 1)
plt.xlabel("picture of the film")
plt.ylabel("accuracy")
plt.legend()
plt.show()

# %% [markdown]
# **Seen:** from one picture the network can only guess which way the ball goes (near a wall it can say what must
# come). From the second picture on, the recurrent network knows: motion lives between the pictures, and the state is
# where the network keeps it.
